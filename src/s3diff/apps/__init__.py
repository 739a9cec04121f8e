"""Thin doors: the command. Heavy imports happen inside functions."""
