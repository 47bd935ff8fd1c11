"""Commands of the broker."""
