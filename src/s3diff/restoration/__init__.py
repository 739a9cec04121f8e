"""Restore pictures; ``steps`` holds the order from a picture to its result."""
