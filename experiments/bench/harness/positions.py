"""Position methods as benchmarks name them: a method alone, or with a sliding window, such as "rope, window 64"."""


def method_and_mask(position: str) -> tuple[str, str]:
    """(model.position, model.mask) of a name."""
    method, _, window = position.partition(", window ")
    return method, f"causal & window({window})" if window else "causal"
