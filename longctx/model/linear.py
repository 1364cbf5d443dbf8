"""The weights of the model and the one matmul that all its layers use. Everything here runs under `jax.set_mesh`."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from longctx import meshes
from longctx.memory.remat import by_fractions


def weight(key, name: str, shape, fan_in: int, dtype: str) -> nnx.Param:
    """A truncated-normal weight of standard deviation fan_in^-0.5, born in the sharding of meshes.weight_spec."""
    spec = meshes.weight_spec(name, shape)
    draw = jax.random.truncated_normal(key, -3, 3, shape, jnp.dtype(dtype), out_sharding=spec)
    return nnx.Param(draw * jnp.asarray(fan_in**-0.5, dtype))


def constant(value: float, name: str, shape, dtype: str) -> nnx.Param:
    """A weight that starts at `value` everywhere."""
    return nnx.Param(jnp.full(shape, value, dtype, out_sharding=meshes.weight_spec(name, shape)))


def project(einsum: str, x, w, name: str, out_spec, bias, remat: str):
    """einsum(x, w) + bias in x's dtype, the weight's shares gathered first, the result cut by `out_spec`.

    remat: of which tokens the backward finds it kept.
    """
    w = meshes.gather_weight(jnp.asarray(w).astype(x.dtype), name)
    of = lambda x, share: checkpoint_name(jnp.einsum(einsum, x, w, out_sharding=out_spec), share)
    y = by_fractions(remat, of, x)
    return y if bias is None else y + jnp.asarray(bias).astype(y.dtype)[None, None]
