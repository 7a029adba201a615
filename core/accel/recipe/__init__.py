"""The recipe: YAML text in, a checked and resolved Recipe out."""
