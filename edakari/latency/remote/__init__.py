"""Timing on another device: a folder of ONNX files goes there, and times come back.

`folder` writes what is to be timed, `transport` takes it there by a command or by hand, and `answers` reads what comes
back. `edakari.latency.runtimes.command` makes a runtime of the three.
"""
