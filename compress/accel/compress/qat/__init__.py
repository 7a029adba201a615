"""Quantization-aware training by torchao; ``accel.compress.quantize_aware`` is its door."""
