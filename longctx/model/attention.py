"""Grouped-query attention: projections, optional norms and biases, positions, and the call that crosses devices."""
import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from longctx import meshes
from longctx.config import AttentionConfig, ModelConfig
from longctx.context_parallel import api as context_parallel
from longctx.model.linear import constant, project, weight
from longctx.model.norm import RMSNorm
from longctx.positions.view import View
from pallas_kernels.masks import Tokens


class Attention(nnx.Module):
    """wo(attend(turn(norm(wq x + bq)), turn(norm(wk x + bk)), wv x + bv)); norms and biases if the config has them.

    turn: RoPE, or what else the View of a layer says of positions.
    """

    def __init__(self, key, config: ModelConfig, attention: AttentionConfig):
        D, N, K, H, dtype = config.embed, config.heads, config.key_heads, config.head_size, config.param_dtype
        self.config, self.how = config, attention
        q, k, v, o = jax.random.split(key, 4)
        self.wq = weight(q, "wq", (D, N, H), D, dtype)
        self.wk = weight(k, "wk", (D, K, H), D, dtype)
        self.wv = weight(v, "wv", (D, K, H), D, dtype)
        self.wo = weight(o, "wo", (N, H, D), N * H * 2 * config.layers, dtype)       # residual sums stay of order one
        if config.qkv_bias:
            self.bq, self.bk, self.bv = (constant(0.0, "bq", (heads, H), dtype) for heads in (N, K, K))
        if config.qk_norm:
            self.q_norm, self.k_norm = (RMSNorm(H, config.norm_eps, dtype) for _ in range(2))

    def __call__(self, x, tokens: Tokens, view: View):
        config = self.config
        q = project("BTD,DNH->BTNH", x, self.wq, "wq", meshes.HEADS)
        k = project("BTD,DKH->BTKH", x, self.wk, "wk", meshes.HEADS)
        v = project("BTD,DKH->BTKH", x, self.wv, "wv", meshes.HEADS)
        if config.qkv_bias:
            pairs = (q, self.bq), (k, self.bk), (v, self.bv)
            q, k, v = (h + jnp.asarray(b).astype(h.dtype)[None, None] for h, b in pairs)
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        out = context_parallel.attend(
            *view.turned(q, k), v, positions=tokens.positions, segments=tokens.segments, mask=view.masks,
            bias=view.bias, table=view.bias_table, soft_cap=config.attention_soft_cap, **dataclasses.asdict(self.how))
        return project("BTNH,NHD->BTD", out, self.wo, "wo", meshes.HIDDEN)
