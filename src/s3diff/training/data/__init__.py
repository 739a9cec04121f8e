"""Find ground-truth pictures in folders and shards; decode and crop them in worker processes."""
