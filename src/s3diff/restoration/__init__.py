"""The product: one place where the order of steps is written."""
