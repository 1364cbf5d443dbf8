"""Attention on TPUs, in Pallas (Mosaic)."""
