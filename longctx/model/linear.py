"""The weights of the model and the one matmul that all its layers use. Everything here runs under `jax.set_mesh`.

A weight states where it is made how meshes store it and whether it decays: no table of names has to know of it, and
model/functional.py finds for a whole model what its weights state.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.memory.remat import by_fractions
from pallas_kernels.select import traced_platform


@dataclasses.dataclass(frozen=True)
class WeightInfo:
    """Metadata `info` of a weight's nnx.Param, which stays with it when layers are stacked.

    Attributes:
      spec: how the mesh axes cut one layer's weight; "fsdp" stands for meshes.SHARES, see meshes.stored_spec.
      decay: whether weight decay applies.
      active: (n, of): each token meets n of the `of` equal parts of the weight, such as the experts that it goes to.
    """

    spec: P
    decay: bool = True
    active: tuple[int, int] = (1, 1)


def weight(key, shape, spec: P, fan_in: int, dtype: str, decay: bool = True, active=(1, 1)) -> nnx.Param:
    """A truncated-normal weight of standard deviation fan_in^-0.5, born in its sharding.

    spec, decay, active: see WeightInfo.
    """
    stored = meshes.stored_spec(spec, shape)
    draw = jax.random.truncated_normal(key, -3, 3, shape, jnp.dtype(dtype), out_sharding=stored)
    return nnx.Param(draw * jnp.asarray(fan_in**-0.5, dtype), info=WeightInfo(spec, decay, active))


def constant(value: float, shape, spec: P, dtype: str, decay: bool = False) -> nnx.Param:
    """A weight that starts at `value` everywhere, born in its sharding; biases and the scales of norms do not decay."""
    start = jnp.full(shape, value, dtype, out_sharding=meshes.stored_spec(spec, shape))
    return nnx.Param(start, info=WeightInfo(spec, decay))


def gathered(w: nnx.Param, dtype) -> jax.Array:
    """A weight in `dtype`, its shares gathered: see meshes.gather_weight."""
    return meshes.gather_weight(jnp.asarray(w).astype(dtype), w.info.spec)


def product(einsum: str, x, w, out_spec: P | None = None):
    """einsum(x, w) in the dtype of both, cut by `out_spec`; None inside a shard_map.

    On CPUs it is asked for in float32 and rounded: for that alone XLA has kernels that read bfloat16, else it converts
    both operands first (an AMD EPYC with AVX-512, 512 x 576 by 576 x 1536 numbers: 2.2 ms, and 4.6 ms without).
    """
    travels = out_spec is not None and meshes.sizes()["tensor"] > 1  # sums over `tensor`, in float32 they would be
    dtype = jnp.float32 if traced_platform() == "cpu" and x.dtype.itemsize < 4 and not travels else None
    return jnp.einsum(einsum, x, w, preferred_element_type=dtype, out_sharding=out_spec).astype(x.dtype)


def project(einsum: str, x, w: nnx.Param, out_spec: P, bias: nnx.Param | None, remat: str):
    """product(einsum, x, w) + bias, the weight's shares gathered first, the result cut by `out_spec`.

    remat: of which tokens the backward finds it kept.
    """
    whole = gathered(w, x.dtype)
    of = lambda x, share: checkpoint_name(product(einsum, x, whole, out_spec), share)
    y = by_fractions(remat, of, x)
    return y if bias is None else y + jnp.asarray(bias).astype(y.dtype)[None, None]
