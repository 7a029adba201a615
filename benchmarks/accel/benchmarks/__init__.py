"""Measuring and judging: latency, accuracy, fidelity, size, and the renderings of a report."""
