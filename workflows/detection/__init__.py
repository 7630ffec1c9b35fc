"""From a media file, or its features, to events, whatever the detector."""
