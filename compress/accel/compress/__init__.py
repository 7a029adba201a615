"""Passes: what makes a model smaller or faster. Each file is one verb."""
