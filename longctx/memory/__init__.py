"""Memory of a training step: offloading to hosts, rematerialization, tiling, and how much memory is free."""
