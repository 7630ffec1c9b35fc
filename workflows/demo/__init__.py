"""``pipeline demo``: films made on the spot, and everything done with them."""
