"""Read, convert, store and fetch weights."""
