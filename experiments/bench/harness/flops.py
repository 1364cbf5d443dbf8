"""Useful FLOPs of attention, by which benchmarks count TFLOP/s."""

MATMULS = {"forward": 2, "backward": 5}


def attention_flops(op: str, heads: int, length: int, head_dim: int, density: float) -> float:
    """FLOPs of the matmuls of one row of attention.

    Args:
      op: "forward" or "backward".
      heads: query heads.
      density: the fraction of the pairs that count; 0.5 for a causal mask.
    """
    return 2 * MATMULS[op] * heads * length**2 * head_dim * density
