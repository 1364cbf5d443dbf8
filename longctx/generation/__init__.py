"""Text from a model: api.generate and api.stream; cache.py, the steps (decode.py), and how a token is chosen."""
