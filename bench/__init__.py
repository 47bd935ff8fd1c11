"""Measurements of the broker. `make bench` runs `python -m bench`."""
