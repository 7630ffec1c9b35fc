"""Training from labels of whole videos, with or without a few segments: docs/clasp.md."""
