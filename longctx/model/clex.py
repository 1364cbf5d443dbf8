"""The weights of CLEX (see longctx/positions/clex.py), and the RoPE tables that they give."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from longctx.config import RopeConfig
from longctx.model.linear import constant, weight
from longctx.positions import api, rope, scalings
from longctx.positions.clex import frequencies


class Clex(nnx.Module):
    """The learned part: clex_up [pairs, F] and clex_down [F, pairs], F = clex_width * the dimensions that rotate."""

    def __init__(self, key, config: RopeConfig, head_dim: int, dtype: str):
        d = api.rotation(config, head_dim).size
        self.clex_up = weight(key, (d // 2, config.clex_width * d), P(None, None), d // 2, dtype)
        self.clex_down = constant(0.0, (config.clex_width * d, d // 2), P(None, None), dtype, decay=True)

    def tables(
        self,
        positions,
        config: RopeConfig,
        head_dim: int,
        length: int | tuple[int, ...],
        stretch=None,
        divisor: int = 1,
        amplitude: float | None = None,
    ) -> rope.Table:
        """The table that rope.tables gives for scalings without weights, of the learned frequencies.

        stretch: whole numbers t float32 [B]; None is what the row's length asks for. The other arguments are those of
        rope.tables.
        """
        up, down = (jnp.asarray(w).astype(jnp.float32) for w in (self.clex_up, self.clex_down))
        scaling = scalings.of(config)
        assert isinstance(scaling, scalings.Clex)  # the only one with weights
        by_t = frequencies(up, down, scaling, api.rotation(config, head_dim))
        if stretch is None:
            lengths = length if isinstance(length, tuple) else (length,)
            rows = by_t[np.array([scaling.times(n) - 1 for n in lengths])]
        else:
            # a gather, in a form that leaves the rows cut as they are
            chosen = jnp.minimum(stretch, len(by_t))[:, None] == jnp.arange(1.0, len(by_t) + 1)[None]
            rows = jnp.where(chosen[..., None], by_t[None], 0.0).sum(1)
        return rope.learned_table(positions, rows / divisor, config.pairing, 1.0 if amplitude is None else amplitude)
