"""Recipes, run folders and the pipeline."""
