"""Cross-entropy on TPUs, in Pallas (Mosaic)."""
