"""Attention as the pair (out, lse): api.py chooses, reference.py defines, the other files are fast."""
