"""Weights files: where they are, how they are fetched, and whether they are the right ones."""
