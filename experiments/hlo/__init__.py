"""What the text of a compiled program says of it: collectives, matmuls, kernels, copies to and from the host."""
