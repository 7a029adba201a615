"""What makes up for rounding: equalized channels, smoothed activations, learned rounding, corrected biases."""
