"""Ground-truth crops: pictures found in folders and shards, decoded and cut by worker processes."""
