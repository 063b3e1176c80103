"""Counts, training and schedules of token selectors."""
