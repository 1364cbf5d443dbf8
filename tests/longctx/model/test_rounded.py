"""Products of bfloat16 on a CPU: values and gradients of the definition in float64, whole and inside a shard_map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import MeshConfig
from longctx.model import linear

SIZES = {"B": 2, "T": 384, "M": 768, "D": 24, "N": 3, "H": 8, "F": 40, "R": 2}
CASES = ["BTD,DNH->BTNH", "BTNH,NHD->BTD", "BTD,DR->BTR"]


def arrays(einsum: str, sizes: dict):
    rng = np.random.default_rng(0)
    letters = [*einsum.split("->")[0].split(","), einsum.split("->")[1]]
    draw = lambda names: jnp.asarray(rng.standard_normal([sizes[name] for name in names]), jnp.bfloat16)
    return [draw(names) for names in letters]


def definition(einsum: str, x, w, dy):
    """(y, dx, dw) in float64."""
    x, w, dy = (np.asarray(a, np.float64) for a in (x, w, dy))
    (of_x, of_w), of_y = einsum.split("->")[0].split(","), einsum.split("->")[1]
    back = np.einsum(f"{of_y},{of_w}->{of_x}", dy, w), np.einsum(f"{of_x},{of_y}->{of_w}", x, dy)
    return np.einsum(einsum, x, w), *back


def assert_rounded(got, want):
    """To half a unit in the last of 8 bits, and what float32 sums lose of the largest."""
    for a, b in zip(got, want, strict=True):
        assert a.dtype == jnp.bfloat16 and a.shape == b.shape
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=2**-8, atol=1e-5 * abs(b).max())


@pytest.mark.parametrize("tokens", [384, 64, 7])
@pytest.mark.parametrize("einsum", CASES)
def test_values_and_gradients(einsum, tokens):
    """Of many tokens, which are turned in runs, and of few, which are not."""
    x, w, dy = arrays(einsum, SIZES | {"T": tokens})
    mesh = meshes.make(MeshConfig())
    with jax.set_mesh(mesh):
        put = lambda a, spec: jax.device_put(a, jax.NamedSharding(mesh, spec))
        inner = {"BTNH": meshes.HEADS}
        of_x, of_y = (inner.get(name, meshes.HIDDEN) for name in (einsum.split(",")[0], einsum.split("->")[1]))
        args = put(x, of_x), put(w, P(*[None] * w.ndim)), put(dy, of_y)

        @jax.jit
        def both(x, w, dy):
            y, pull = jax.vjp(lambda x, w: linear.product(einsum, x, w, of_y), x, w)
            return y, *pull(dy)

        text = both.lower(*args).as_text()
        assert_rounded(both(*args), definition(einsum, x, w, dy))
    operands = [line.rpartition(": ")[2].partition("->")[0] for line in text.splitlines() if "dot_general" in line]
    assert len(operands) == 3 and all("bf16" in types and "f32" not in types for types in operands)


def test_inside_a_shard_map_the_types_of_both_sides_meet():
    """As in a feed-forward layer: tokens vary over the data axes, weights over `tensor`."""
    x, w, dy = arrays("MD,DF->MF", SIZES)
    axes, mesh = (*meshes.BATCH, *meshes.CONTEXT), meshes.make(MeshConfig())
    with jax.set_mesh(mesh):
        local = lambda x, w: linear.product("MD,DF->MF", x, w)
        mapped = jax.shard_map(local, in_specs=(P(axes), P(None, "tensor")), out_specs=P(axes, "tensor"))
        put = lambda a, spec: jax.device_put(a, jax.NamedSharding(mesh, spec))
        args = put(x, P(axes)), put(w, P(None, "tensor")), put(dy, P(axes, "tensor"))

        @jax.jit
        def both(x, w, dy):
            y, pull = jax.vjp(mapped, x, w)
            return y, *pull(dy)

        assert_rounded(both(*args), definition("MD,DF->MF", x, w, dy))
