"""Checkpoints of others, read without running anything that they say."""
