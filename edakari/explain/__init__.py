"""Explanations that `edakari explain` shows: filters, saliency maps, tokens."""
