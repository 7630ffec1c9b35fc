"""The feature store: arrays of many videos in files that survive every crash."""
