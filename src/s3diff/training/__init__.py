"""Train the networks: from a training picture to a weight update."""
