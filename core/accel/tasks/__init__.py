"""Tasks: data, preprocessing and metrics."""
