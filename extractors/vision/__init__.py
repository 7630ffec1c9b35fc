"""Frozen picture encoders, one per file."""
