"""Restore pictures: the order of the steps is written in this package and nowhere else."""
