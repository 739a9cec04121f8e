"""Pixels and files; knows no network."""
