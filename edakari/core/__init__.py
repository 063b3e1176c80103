"""Contracts and data that every other part is built on."""
