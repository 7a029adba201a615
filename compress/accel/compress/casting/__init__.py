"""Casting a graph to 16 bits; ``accel.compress.cast`` is its door."""
