"""A run while it goes and on disk: the frame of commands, the loop, signals, metrics, records."""
