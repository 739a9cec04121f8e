"""Connect s3diff to other engines: one file or folder each, which imports the engine's packages inside functions."""
