"""Mixtures of experts: a router sends every token to a few of many feed-forward layers. No token is dropped."""
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import ModelConfig
from longctx.model.linear import constant, weight
from longctx.model.mlp import Gated

LIMIT, STEEPNESS = 7.0, 1.702           # of gpt-oss's activation


class Experts(nnx.Module):
    """sum over the experts e that a token goes to of down_e(combined(gate_e(x), up_e(x))), weighted.

    Subclasses say how the chosen experts' scores become weights, where these multiply, and how gate and up combine.
    """

    def __init__(self, key, config: ModelConfig):
        D, E, F, dtype = config.embed, config.experts, config.expert_mlp, config.param_dtype
        router, gate, up, down = jax.random.split(key, 4)
        self.per_token = config.experts_per_token
        self.router = weight(router, "router", (D, E), D, dtype)
        self.expert_gate = weight(gate, "expert_gate", (E, D, F), D, dtype)
        self.expert_up = weight(up, "expert_up", (E, D, F), D, dtype)
        self.expert_down = weight(down, "expert_down", (E, F, D), F * 2 * config.layers, dtype)
        self.biased = config.mlp_bias
        if self.biased:
            self.router_bias = constant(0.0, "router_bias", (E,), dtype)
            self.expert_gate_bias = constant(0.0, "expert_gate_bias", (E, F), dtype)
            self.expert_up_bias = constant(0.0, "expert_up_bias", (E, F), dtype)
            self.expert_down_bias = constant(0.0, "expert_down_bias", (E, D), dtype)

    def __call__(self, x):
        names = ["router", "expert_gate", "expert_up", "expert_down"]
        names += [f"{name}_bias" for name in names] if self.biased else []
        gathered = {name: meshes.gather_weight(jnp.asarray(getattr(self, name)).astype(x.dtype), name)
                    for name in names}
        cuts = {name: P(*(None if axis == "fsdp" else axis for axis in meshes.weight_spec(name))) for name in names}
        return jax.shard_map(self._local, in_specs=(meshes.HIDDEN, cuts), out_specs=meshes.HIDDEN)(x, gathered)

    def _local(self, x, w):
        """One device's tokens, sorted by expert: each matmul is one of ragged groups. F is cut over `tensor`."""
        tokens = x.reshape(-1, x.shape[-1])
        scores = jnp.dot(tokens, w["router"], preferred_element_type=jnp.float32)
        scores += w["router_bias"][None] if self.biased else 0.0
        top, chosen = jax.lax.top_k(scores, self.per_token)                     # [n, k]
        weights, expert = self.weights(top).reshape(-1), chosen.reshape(-1)
        order = jnp.argsort(expert)
        token, expert, weights = order // self.per_token, expert[order], weights[order][:, None]
        sizes = jnp.bincount(expert, length=scores.shape[-1])
        through = lambda h, name: jax.lax.ragged_dot(h, w[name], sizes) + self._bias(w, name, expert)
        goes_in = self.weighted_in(tokens[token], weights)
        hidden = self.combined(through(goes_in, "expert_gate"), through(goes_in, "expert_up")).astype(x.dtype)
        down = jax.lax.ragged_dot(hidden, w["expert_down"], sizes, preferred_element_type=jnp.float32)
        down = jax.lax.psum(down, "tensor") + self._bias(w, "expert_down", expert)
        out = jnp.zeros(tokens.shape, jnp.float32).at[token].add(self.weighted_out(down, weights))
        return out.astype(x.dtype).reshape(x.shape)

    def _bias(self, w, name: str, expert):
        return w[f"{name}_bias"][expert] if self.biased else 0.0


class GptOss(Experts):
    """gpt-oss: weights are the softmax over the chosen scores; (up + 1) * gate * sigmoid(1.702 gate), both clipped."""

    def __init__(self, key, config: ModelConfig, size: int):
        super().__init__(key, config)

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
    """Llama 4: the sigmoids of the chosen scores multiply what goes in; SwiGLU; and one more that all tokens go to."""

    def __init__(self, key, config: ModelConfig, size: int):
        super().__init__(key, config)
        self.shared = Gated(jax.random.fold_in(key, 0), config, size)

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
