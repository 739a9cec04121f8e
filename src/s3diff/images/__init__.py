"""Handle pixels and files; independent of networks."""
