"""What ``pipeline bench`` measures: speed, memory and recognition, each with its record."""
