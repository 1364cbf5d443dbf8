"""Attention on Hopper GPUs, in Pallas (Mosaic GPU)."""
