"""Frozen sound encoders, one per file."""
