"""From media files to a store of features: planned, run under faults, reported."""
