"""The model families, siblings with one inner shape."""
