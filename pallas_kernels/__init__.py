"""Kernels and their definitions. Knows jax only: nothing here imports longctx."""
