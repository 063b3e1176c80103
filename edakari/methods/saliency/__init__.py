"""Explainers of where a network looks, for ISP."""
