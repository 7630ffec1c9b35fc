"""Media files: what they hold, their frames and their sound, on the container clock."""
