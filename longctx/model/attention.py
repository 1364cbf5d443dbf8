"""Grouped-query attention: projections, norms, biases and sinks; how tokens see one another is the caller's, Attend."""

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import LayerConfig, ModelConfig
from longctx.model.linear import constant, project, weight
from longctx.model.norm import NORMS, normalized
from longctx.positions import methods

# of q and k, per head, before they are rotated (which changes no length)
QK_NORMS = ("none", "rms", "l2")  # l2: without weights, and only in layers that rotate them (Llama 4)


class Attend(Protocol):
    """How the tokens of a layer see one another: what Attention, and so every block, is called with.

        q, k, v = wq x, wk x, wv x  ->  out, kept = attend(q, k, v, scale=, soft_cap=, sinks=)  ->  wo out

    A forward pass attends over the sequence by the run's strategy (model/transformer.py), generation over a cache too
    (generation/cache.py, which keeps k and v), the streamed backward cuts a layer in two here (streaming/layer.py).
    """

    def __call__(self, q, k, v, *, scale: float | None, soft_cap: float, sinks: jax.Array | None) -> tuple[Any, Any]:
        """(out [B, T, N, H], any tree of arrays that the caller keeps) of q [B, T, N, H] and k, v [B, T, K, H].

        q and k come as projected, not rotated. scale: of the scores, None for H^-0.5; soft_cap: of the scores, 0 for
        none; sinks: [N], logits of a key without value.
        """
        ...


class Attention(nnx.Module):
    """wo(attend(norm(wq x + bq), norm(wk x + bk), wv x + bv)) + bo; norms and biases if the config has them."""

    def __init__(self, key, config: ModelConfig, kind: LayerConfig):
        D, N, K, H, dtype = config.d_model, config.heads, config.kv_heads, config.head_dim, config.param_dtype
        self.config = config
        self.l2 = config.qk_norm == "l2" and methods.parse(kind.position).rotates
        q, k, v, o = jax.random.split(key, 4)
        into = P("fsdp", "tensor", None)
        self.wq = weight(q, (D, N, H), into, D, dtype, inputs=1)
        self.wk, self.wv = (weight(key, (D, K, H), into, D, dtype, inputs=1) for key in (k, v))
        residual = N * H * 2 * config.layers  # fan-in of wo: sums of the residual stream stay of order one
        self.wo = weight(o, (N, H, D), P("tensor", None, "fsdp"), residual, dtype, inputs=2)
        bias = lambda shape, spec, wanted: constant(0.0, shape, spec, dtype) if wanted else None
        self.bq = bias((N, H), P("tensor", None), config.qkv_bias)
        self.bk, self.bv = (bias((K, H), P("tensor", None), config.qkv_bias) for _ in range(2))
        self.bo = bias((D,), P(None), config.out_bias)
        self.sinks = bias((N,), P("tensor"), config.learned_sinks)
        if config.qk_norm == "rms":
            self.q_norm, self.k_norm = (NORMS["rms"](H, config) for _ in range(2))

    def __call__(self, x, attend: Attend):
        """(BTD, what `attend` keeps) of x BTD."""
        projected = functools.partial(project, remat=self.config.remat)
        q = projected("BTD,DNH->BTNH", x, self.wq, meshes.HEADS, self.bq)
        k = projected("BTD,DKH->BTKH", x, self.wk, meshes.HEADS, self.bk)
        v = projected("BTD,DKH->BTKH", x, self.wv, meshes.HEADS, self.bv)
        if self.l2:
            q, k = (normalized(h.astype(jnp.float32), self.config.norm_eps).astype(h.dtype) for h in (q, k))
        if self.config.qk_norm == "rms":
            q, k = self.q_norm(q), self.k_norm(k)
        sinks = None if self.sinks is None else jnp.asarray(self.sinks)
        out, kept = attend(
            q, k, v, scale=self.config.attention_scale or None, soft_cap=self.config.attention_soft_cap, sinks=sinks
        )
        return projected("BTNH,NHD->BTD", out, self.wo, meshes.HIDDEN, self.bo), kept
