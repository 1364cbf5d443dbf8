"""A training step whose device memory does not grow with the length: layer by layer, a chunk of every row at a time."""
