"""Backends: the runtimes that run what the passes made."""
