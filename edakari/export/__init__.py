"""Networks for other runtimes, checked against the module."""
