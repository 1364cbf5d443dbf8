"""Readers of a compiled program's text: its collectives, matmuls, kernels, and copies to and from the host."""
