"""``python -m pipeline``: the same program as the ``pipeline`` command."""

from pipeline.cli import entry

if __name__ == "__main__":
    entry()
