"""Explaining where a network looks, for ISP."""
