"""Turn a media file into feature arrays on one clock. Knows nothing of events or classes."""
