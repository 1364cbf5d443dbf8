"""The weights of the model and the one matmul that all its layers use. Everything here runs under `jax.set_mesh`.

A weight states where it is made how meshes store it and whether it decays: no table of names has to know of it, and
model/functional.py finds for a whole model what its weights state.
"""

import dataclasses
import math
import string
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import LoraConfig
from longctx.memory.remat import by_fractions
from longctx.model import rounded
from pallas_kernels.select import traced_platform


@dataclasses.dataclass(frozen=True)
class WeightInfo:
    """Metadata `info` of a weight's nnx.Param, which stays with it when layers are stacked.

    Attributes:
      spec: how the mesh axes cut one layer's weight; "fsdp" stands for meshes.SHARES, see meshes.stored_spec.
      decay: whether weight decay applies.
      active: (n, of): each token meets n of the `of` equal parts of the weight, such as the experts that it goes to.
      inputs: how many of its dimensions a matmul sums over; 0 for a weight that low-rank adapters do not know.
      matrices: how many dimensions, before those, number matrices that are apart, such as those of experts.
    """

    spec: P
    decay: bool = True
    active: tuple[int, int] = (1, 1)
    inputs: int = 0
    matrices: int = 0


def weight(
    key, shape, spec: P, fan_in: int, dtype: str, active=(1, 1), inputs: int = 0, matrices: int = 0
) -> nnx.Param:
    """A truncated-normal weight of standard deviation fan_in^-0.5, born in its sharding, that decays.

    spec, active, inputs, matrices: see WeightInfo.
    """
    stored = meshes.stored_spec(spec, shape)
    draw = jax.random.truncated_normal(key, -3, 3, shape, jnp.dtype(dtype), out_sharding=stored)
    return nnx.Param(draw * jnp.asarray(fan_in**-0.5, dtype), info=WeightInfo(spec, True, active, inputs, matrices))


def constant(value: float, shape, spec: P, dtype: str, decay: bool = False, active=(1, 1)) -> nnx.Param:
    """A weight that starts at `value` everywhere, born in its sharding; biases and the scales of norms do not decay.

    spec, decay, active: see WeightInfo.
    """
    start = jnp.full(shape, value, dtype, out_sharding=meshes.stored_spec(spec, shape))
    return nnx.Param(start, info=WeightInfo(spec, decay, active))


class Adapted(nnx.Module):
    """A weight with a low-rank addition, base + scale a b, in the place of the weight (see LoraConfig).

    base: [inputs..., outputs...]; a: [inputs..., R], drawn as weights are; b: [R, outputs...], zeros at first, so that
    the sum starts as base. Experts have such a and b each, [E, ...]. Meshes cut a and b where they cut base, and R
    never.

    fan_in: of a; default the size of inputs.
    """

    def __init__(self, key, base: nnx.Param, lora: LoraConfig, fan_in: int = 0):
        (*spec,), shape, info, R = base.info.spec, base.shape, base.info, lora.rank
        first, end = info.matrices, info.matrices + info.inputs
        fan_in, of_b = fan_in or math.prod(shape[first:end]), P(*spec[:first], None, *spec[end:])
        self.scale = lora.alpha / R
        self.base = base
        self.a = weight(key, (*shape[:end], R), P(*spec[:end], None), fan_in, "float32", info.active)
        self.b = constant(0.0, (*shape[:first], R, *shape[end:]), of_b, "float32", True, info.active)


class Factored(NamedTuple):
    """An Adapted weight in the dtype of a matmul, its shares gathered: whole + a b, which is never one array."""

    whole: jax.Array
    a: jax.Array
    b: jax.Array


def summed(base, a, b, scale) -> jax.Array:
    """base + scale a b in float32, cut as base is; base: [..., inputs..., outputs...], a: [..., inputs..., R],
    b: [..., R, outputs...], where each ... is any number of dimensions."""
    letters, apart = string.ascii_lowercase[: base.ndim], a.ndim + b.ndim - base.ndim - 2
    rows, ins, outs = letters[:apart], letters[apart : a.ndim - 1], letters[a.ndim - 1 :]
    low = jnp.einsum(
        f"{rows}{ins}R,{rows}R{outs}->{letters}",
        *(x.astype(jnp.float32) for x in (a, b)),
        precision="highest",
        out_sharding=jax.typeof(base).sharding.spec,
    )
    return base.astype(jnp.float32) + scale * low


def whole(w: nnx.Param | Adapted, dtype) -> jax.Array:
    """A weight as one array, with what its adapter adds, `gathered` in `dtype`."""
    if not isinstance(w, Adapted):
        return gathered(w, dtype)
    base, a, b = (jnp.asarray(x) for x in (w.base, w.a, w.b))
    total = summed(base, a, b, w.scale)
    return meshes.gather_weight(total.astype(dtype), w.base.info.spec)


def gathered(w: nnx.Param, dtype) -> jax.Array:
    """A weight in `dtype`, its shares gathered: see meshes.gather_weight."""
    return meshes.gather_weight(jnp.asarray(w).astype(dtype), w.info.spec)


def operand(w: nnx.Param | Adapted, dtype) -> jax.Array | Factored:
    """A weight as matmuls take it, `gathered` in `dtype`."""
    if not isinstance(w, Adapted):
        return gathered(w, dtype)
    b = meshes.gather_weight((jnp.asarray(w.b) * w.scale).astype(dtype), w.b.info.spec)
    return Factored(gathered(w.base, dtype), gathered(w.a, dtype), b)


def product(einsum: str, x, w: jax.Array | Factored, out_spec: P | None = None):
    """einsum(x, w) in x's dtype, cut by `out_spec`; None inside a shard_map.

    einsum: of tokens, whose first letters are BT or M, and a weight, such as "BTD,DNH->BTNH".
    """
    if not isinstance(w, Factored):
        return _product(einsum, x, w, out_spec)
    operands, y = einsum.split("->")
    of_x, of_w = operands.split(",")
    inputs = "".join(letter for letter in of_x if letter in of_w)
    tokens = of_x.removesuffix(inputs)
    low = _product(f"{of_x},{inputs}R->{tokens}R", x, w.a, out_spec and meshes.HIDDEN)
    added = _product(f"{tokens}R,R{of_w.removeprefix(inputs)}->{y}", low, w.b, out_spec)
    return _product(einsum, x, w.whole, out_spec) + added


def _product(einsum: str, x, w: jax.Array, out_spec: P | None) -> jax.Array:
    """`product` of a weight in one piece.

    On CPUs it is asked for in float32 and rounded: for that alone XLA has kernels that read bfloat16, else it converts
    both operands first (an AMD EPYC with AVX-512, 512 x 576 by 576 x 1536 numbers: 2.2 ms, and 4.6 ms without).
    """
    narrow = traced_platform() == "cpu" and x.dtype.itemsize < 4
    if narrow and math.prod(jax.sharding.get_abstract_mesh().axis_sizes) == 1:
        return rounded.product(einsum, x, w, out_spec)
    travels = out_spec is not None and meshes.sizes()["tensor"] > 1  # sums over `tensor`, in float32 they would be
    dtype = jnp.float32 if narrow and not travels else None
    return jnp.einsum(einsum, x, w, preferred_element_type=dtype, out_sharding=out_spec).astype(x.dtype)


def project(einsum: str, x, w: nnx.Param | Adapted, out_spec: P, bias: nnx.Param | None, remat: str):
    """product(einsum, x, w) + bias, the weight's shares gathered first, the result cut by `out_spec`.

    remat: of which tokens the backward finds it kept.
    """
    whole = operand(w, x.dtype)
    of = lambda x, share: checkpoint_name(product(einsum, x, whole, out_spec), share)
    y = by_fractions(remat, of, x)
    return y if bias is None else y + jnp.asarray(bias).astype(y.dtype)[None, None]
