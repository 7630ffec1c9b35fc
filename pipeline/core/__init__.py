"""What every room speaks: events, errors, atomic writes, the ledger. No third party but NumPy."""
