"""Masks and gates on channels of a network in training: what SMCP, HALP, EKG and ISP compute with."""
