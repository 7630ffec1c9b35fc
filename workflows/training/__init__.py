"""From features and labels to a checkpoint."""
