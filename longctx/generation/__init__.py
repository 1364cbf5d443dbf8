"""Text from a model: generate and stream (api.py), the key-value cache, the decoding steps, and sampling."""
