"""The weights of CLEX (see longctx/positions/clex.py), and the RoPE tables that they give."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from longctx.config import RopeConfig
from longctx.model.linear import constant, weight
from longctx.positions import rope, scaling
from longctx.positions.clex import frequencies


class Clex(nnx.Module):
    """The learned part: clex_up [pairs, F] and clex_down [F, pairs], F = clex_width * the dimensions that rotate."""

    def __init__(self, key, config: RopeConfig, head_dim: int, dtype: str):
        d = scaling.rotary_size(config, head_dim)
        self.clex_up = weight(key, "clex_up", (d // 2, config.clex_width * d), d // 2, dtype)
        self.clex_down = constant(0.0, "clex_down", (config.clex_width * d, d // 2), dtype)

    def tables(
        self, positions, config: RopeConfig, head_dim: int, length: int | tuple[int, ...], stretch=None, divisor=1
    ) -> rope.Table:
        """As rope.tables; stretch: whole numbers t float32 [B]; None is what the row's length asks for."""
        up, down = (jnp.asarray(w).astype(jnp.float32) for w in (self.clex_up, self.clex_down))
        by_t = frequencies(up, down, config, head_dim)
        if stretch is None:
            lengths = length if isinstance(length, tuple) else (length,)
            mine = by_t[np.array([scaling.clex_stretch(config, n) - 1 for n in lengths])]
        else:
            # a gather, in a form that leaves the rows cut as they are
            chosen = jnp.minimum(stretch, len(by_t))[:, None] == jnp.arange(1.0, len(by_t) + 1)[None]
            mine = jnp.where(chosen[..., None], by_t[None], 0.0).sum(1)
        return rope.learned_table(positions, mine / divisor, config.pairing)
