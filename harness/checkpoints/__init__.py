"""Checkpoints: built from a seed, on a path, or on a hub; every one a local folder in the end."""
