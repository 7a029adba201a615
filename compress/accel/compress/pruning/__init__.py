"""Removing channels and blocks; ``accel.compress.prune`` is its door."""
