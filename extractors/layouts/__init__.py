"""Feature files as the field lays them out, into the store and back."""
