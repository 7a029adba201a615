"""Which layers stay in floating point for the sake of accuracy."""
