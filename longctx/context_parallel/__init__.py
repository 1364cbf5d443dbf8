"""Attention over a sequence that is cut across devices: api.attend, and one file per strategy."""
