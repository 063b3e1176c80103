"""Conformance suites and toy networks for tests of your own."""
