"""Doors from other engines: one folder or file each, their packages imported inside."""
