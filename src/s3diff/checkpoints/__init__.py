"""Names and bytes of weights: reading, converting, storing, fetching."""
