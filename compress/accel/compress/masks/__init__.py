"""Zeros that stay; ``accel.compress.sparsify`` is its door."""
