"""One file a command; cli.py only parses."""
