"""The one training loop, in small rooms; ``accel.compress.train`` is its door."""
