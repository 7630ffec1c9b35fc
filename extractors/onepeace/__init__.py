"""ONE-PEACE: what it is, its layers, and its public checkpoints."""
