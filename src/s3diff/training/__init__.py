"""A training picture in, a weight update out."""
