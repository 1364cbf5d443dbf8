"""Mixtures of experts: a router sends every token to a few of many feed-forward layers. No token is dropped."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from longctx import cuts
from longctx.config import MemoryConfig, ModelConfig
from longctx.errors import UserError
from longctx.model.linear import Factored, constant, weight
from longctx.model.mlp import Gated, TokenWise, biased

LIMIT, STEEPNESS = 7.0, 1.702  # of gpt-oss's activation


class Experts(TokenWise):
    """The weighted sum of down_e(combined(gate_e(x), up_e(x))) over the experts e that a token goes to.

    Subclasses say how the chosen experts' scores become `weights`, where these multiply (`weighted_in`,
    `weighted_out`), and how gate and up are `combined`.
    """

    reads = ("experts", "experts_per_token", "expert_mlp_dim")

    def __init__(self, key, config: ModelConfig, size: int, memory: MemoryConfig):
        super().__init__(config, memory)
        D, E, F, dtype = config.d_model, config.experts, config.expert_mlp_dim, config.param_dtype
        router, gate, up, down = jax.random.split(key, 4)
        self.per_token = config.experts_per_token
        active, into, residual = (self.per_token, E), P(None, "fsdp", "tensor"), F * 2 * config.layers
        self.router = weight(router, (D, E), P("fsdp", None), D, dtype)
        out = P(None, "tensor", "fsdp")
        self.expert_gate = weight(gate, (E, D, F), into, D, dtype, active, inputs=1, matrices=1)
        self.expert_up = weight(up, (E, D, F), into, D, dtype, active, inputs=1, matrices=1)
        self.expert_down = weight(down, (E, F, D), out, residual, dtype, active, inputs=1, matrices=1)
        bias = lambda shape, spec: constant(0.0, shape, spec, dtype) if config.mlp_bias else None
        self.router_bias = bias((E,), P(None))
        self.expert_gate_bias, self.expert_up_bias = (bias((E, F), P(None, "tensor")) for _ in range(2))
        self.expert_down_bias = bias((E, D), P(None, None))

    @classmethod
    def check(cls, config, tensor):
        if not 1 <= config.experts_per_token <= config.experts:
            raise UserError(
                f"model.experts_per_token={config.experts_per_token} must be from 1 to model.experts={config.experts} "
                "for a mixture of experts."
            )
        cuts.check_axis("model.expert_mlp_dim", config.expert_mlp_dim, "tensor", tensor)

    def local(self, w, tokens, share):
        """Tokens sorted by expert: each matmul is one of ragged groups. F is cut over `tensor`."""
        named = lambda h: checkpoint_name(h, share)
        # named too: rows that are kept are in the order of these very scores, and a tie could fall the other way
        scores = named(biased(jnp.dot(tokens, w["router"], preferred_element_type=jnp.float32), w, "router"))
        top, chosen = jax.lax.top_k(scores, self.per_token)  # [n, k]
        weights, expert = self.weights(top).reshape(-1), chosen.reshape(-1)
        order = jnp.argsort(expert)
        token, expert, weights = order // self.per_token, expert[order], weights[order][:, None]
        sizes = jnp.bincount(expert, length=scores.shape[-1])
        through = lambda h, name: biased(named(_by_expert(h, w[name], sizes)), w, name, expert)
        goes_in = self.weighted_in(tokens[token], weights)
        hidden = self.combined(through(goes_in, "expert_gate"), through(goes_in, "expert_up")).astype(tokens.dtype)
        down = _by_expert(hidden, w["expert_down"], sizes, jnp.float32)
        down = biased(jax.lax.psum(down, "tensor"), w, "expert_down", expert)
        out = jnp.zeros(tokens.shape, jnp.float32).at[token].add(self.weighted_out(down, weights))
        return out.astype(tokens.dtype)


def _by_expert(x, w: jax.Array | Factored, sizes, dtype=None):
    """The rows of x [M, inputs], sorted by expert, each through the matrix of its expert: [M, outputs].

    w: [E, inputs, outputs]. sizes: rows of each expert, [E]. dtype: of the result; default x's.
    """
    if not isinstance(w, Factored):
        return jax.lax.ragged_dot(x, w, sizes, preferred_element_type=dtype)
    low = _by_expert(x, w.a, sizes, dtype).astype(x.dtype)
    return _by_expert(x, w.whole, sizes, dtype) + _by_expert(low, w.b, sizes, dtype)


class GptOss(Experts):
    """gpt-oss: weights are the softmax over the chosen scores; (up + 1) * gate * sigmoid(1.702 gate), both clipped."""

    def weights(self, top):
        return jax.nn.softmax(top, -1)

    def weighted_in(self, x, weights):
        return x

    def weighted_out(self, y, weights):
        return y * weights

    def combined(self, gate, up):
        gate, up = (h.astype(jnp.float32) for h in (gate, up))
        gate, up = jnp.minimum(gate, LIMIT), jnp.clip(up, -LIMIT, LIMIT)
        return (up + 1) * gate * jax.nn.sigmoid(STEEPNESS * gate)


class Llama4(Experts):
    """Llama 4: the sigmoids of the chosen scores multiply the tokens that go into SwiGLU experts; a shared expert, of
    `size` hidden numbers, takes all tokens too."""

    def __init__(self, key, config: ModelConfig, size: int, memory: MemoryConfig):
        super().__init__(key, config, size, memory)
        self.shared = Gated(jax.random.fold_in(key, 0), config, size, memory)

    def __call__(self, x):
        return super().__call__(x) + self.shared(x)

    def weights(self, top):
        return jax.nn.sigmoid(top)

    def weighted_in(self, x, weights):
        return x * weights.astype(x.dtype)

    def weighted_out(self, y, weights):
        return y

    def combined(self, gate, up):
        return jax.nn.silu(gate.astype(jnp.float32)) * up
