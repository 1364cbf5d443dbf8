"""Cross-entropy on NVIDIA GPUs, in Triton by jax-triton."""
