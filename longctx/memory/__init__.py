"""Memory of a step: what moves to the hosts, what is computed again, what is done tile by tile, what is free."""
