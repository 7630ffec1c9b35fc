"""Feature tensors in, events and losses out. Pure PyTorch: knows no files, no videos, no Dask."""
