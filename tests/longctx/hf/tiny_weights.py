"""The weights of the tiny models of tests/golden/hf: made from the names of their tensors, so that none is stored.

Knows numpy only: tests/golden/make_hf.py, which has transformers and not jax, makes equal ones.
"""

import zlib

import numpy as np

EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight")
EXPERTS = ("gate_up_proj", "down_proj")  # [E, in, out]; all other matrices are [out, in]


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """float32 values for every tensor, such that each of them matters and logits are of order 1."""
    return {name: _weight(name, tuple(shape)) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith(EMBEDDINGS):
        draw *= 0.35
    elif "norm" in name and name.endswith(".weight"):
        draw = 0.7 + 0.3 * draw
    elif len(shape) == 1 or name.endswith("_bias"):
        draw *= 0.3
    else:
        draw *= 1.5 * shape[-2 if name.endswith(EXPERTS) else -1] ** -0.5
    return draw.astype(np.float32)
