"""The decoder as flax nnx modules, and functional.py, the only place that splits and merges them."""
