"""Training loops of other libraries, for everything that edakari trains.

Each module has a function `fit(...)`, whose result goes to `edakari.prune(..., fit=...)`. A recipe names it by `fit`.
See `edakari.core.protocols.Fit` for what a loop of your own has to do.
"""
