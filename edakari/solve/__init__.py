"""Allocators that spend a budget on groups."""
