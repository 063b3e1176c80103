"""Protocols and data types that all other packages use."""
