"""Masks and gates on the channels of a network in training, for SMCP, HALP, EKG and ISP."""
