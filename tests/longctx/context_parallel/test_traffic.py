"""Bytes that leave each device, against the closed forms: only what is needed is sent."""

import unittest.mock

import jax
import jax.numpy as jnp
import pytest

from longctx import meshes
from longctx.config import MeshConfig
from longctx.context_parallel import api, collectives, dispatch
from longctx.memory.remat import checkpointed
from pallas_kernels import masks
from tests.helpers import nightly, slow
from tests.longctx.context_parallel.cut import attend
from tests.longctx.context_parallel.traffic import sent_bytes

S, C, N, H = 65536, 8, 32, 128
n, MIB = S // C, 2**20
WHERE = 2 * 4  # bytes of a token's position and segment, which travel with the keys


def traffic(strategy, K, mask="causal", layout="contiguous", outer=1, kv_grads_dtype="bfloat16", rounds=None):
    """MiB (forward, backward) of one call in bfloat16."""
    mesh = meshes.make(MeshConfig(context_outer=outer, context=C // outer))
    array = lambda heads: jax.ShapeDtypeStruct(
        (1, S, heads, H), jnp.bfloat16, sharding=jax.sharding.NamedSharding(mesh, meshes.HEADS)
    )
    f = lambda q, k, v: attend(
        q, k, v, mask=masks.parse(mask), strategy=strategy, layout=layout, kv_grads_dtype=kv_grads_dtype
    )
    # traced into the caller's program, as by a model: differentiating a program of its own drops positions nobody reads
    inline = unittest.mock.patch.object(api, "_compiled", api._compiled.__wrapped__)
    with jax.set_mesh(mesh), inline:
        forward = sent_bytes(f, array(N), array(K), array(K), rounds=rounds)
        pull = lambda q, k, v, dout: jax.vjp(f, q, k, v)[1](dout)
        both = sent_bytes(pull, array(N), array(K), array(K), array(N), rounds=rounds)
    return forward / MIB, (both - forward) / MIB


def block(heads, bytes_each=2):
    """MiB of one shard's [n, heads, H]."""
    return n * heads * H * bytes_each / MIB


@pytest.mark.parametrize(
    "strategy, layout, outer, K",
    [
        ("ring", "zigzag", 1, 32),
        ("bidirectional_ring", "zigzag", 1, 8),
        ("double_ring", None, 2, 8),
        *nightly(("ring", "zigzag", 1, 8), ("bidirectional_ring", "zigzag", 1, 32), ("double_ring", None, 2, 32)),
    ],
)
def test_rings(strategy, layout, outer, K):
    """C-1 hops of K and V either way; C-1 of dK and dV, for a block's own share is added at home."""
    where = n * WHERE / MIB
    forward, backward = traffic(strategy, K, layout=layout or "contiguous", outer=outer)
    hops = C - 1
    if strategy == "double_ring":  # an outer hop, and the inner ones on both its sides
        hops = (outer - 1) + outer * (C // outer - 1)
    assert forward == hops * (2 * block(K) + where)
    assert backward == hops * (4 * block(K) + where)


def test_gradients_in_float32_cost_twice():
    forward, backward = traffic("ring", 8, kv_grads_dtype="float32")
    assert backward == (C - 1) * (2 * block(8) + 2 * block(8, 4) + n * WHERE / MIB)


@pytest.mark.parametrize("K", [32, 8])
def test_all_gather(K):
    forward, backward = traffic("all_gather", K)
    assert forward == (C - 1) * (2 * block(K) + n * WHERE / MIB)
    assert backward == (C - 1) * 2 * block(K)  # K and V were kept


@pytest.mark.parametrize("K", [32, 8])
def test_ulysses(K):
    share = (C - 1) / C
    rows = n * N * 4 / MIB  # lse, or delta: one float32 for each query and head
    forward, backward = traffic("ulysses", K)
    assert forward == share * (2 * block(N) + 2 * block(K) + rows) + (C - 1) * n * WHERE / MIB
    assert backward == share * (2 * block(N) + 2 * block(K) + 2 * rows)


@pytest.mark.parametrize("kv_grads_dtype, bytes_each", [("bfloat16", 2), *slow(("float32", 4))])
def test_dispatch(kv_grads_dtype, bytes_each, monkeypatch):
    """A round is of K and V or, back home, of dK and dV; before the first, ranges of blocks and counts of them travel.

    Of the places of a round only those taken are sent, and the more rounds, the more of them are taken.
    """
    monkeypatch.setattr(collectives, "traced_platform", lambda: "tpu")
    one, two, three = (traffic("dispatch", 8, kv_grads_dtype=kv_grads_dtype, rounds=more) for more in range(3))
    size = dispatch.block_size(n, C)
    share = (dispatch.ROOM * n // size + C) * size / n  # of the places in a round: one more block for each shard
    fetch, home = share * (2 * block(8) + n * WHERE / MIB), share * 2 * block(8, bytes_each)
    assert three[0] - two[0] == two[0] - one[0] == fetch and share <= dispatch.ROOM + 0.125
    assert three[1] - two[1] == two[1] - one[1] == fetch + home
    assert one[0] < 1.01 * fetch


def test_a_window_limits_the_hops():
    forward, backward = traffic("ring", 8, "causal & window(4096)")
    assert forward == 2 * block(8) + n * WHERE / MIB and forward <= 32 + 0.1
    assert backward == 4 * block(8) + n * WHERE / MIB


def test_token_ring_sends_queries_and_results():
    """Forward: queries in bfloat16 and their place, and (out, lse) in float32; keys stay where they are."""
    forward, _ = traffic("token_ring", 32)
    assert forward == (C - 1) * (block(N) + n * WHERE / MIB + block(N, 4) + n * N * 4 / MIB)


def test_remat_keeps_what_was_exchanged_or_sends_it_again():
    """With only out and lse kept, q, k, v are exchanged again in the backward."""
    mesh = meshes.make(MeshConfig(context=C))
    array = jax.ShapeDtypeStruct((1, S, N, H), jnp.bfloat16, sharding=jax.sharding.NamedSharding(mesh, meshes.HEADS))
    total = {}
    for remat in ("none", "attention"):
        layer = checkpointed(lambda q: attend(q, q, q, strategy="ulysses"), remat)
        with jax.set_mesh(mesh):
            total[remat] = sent_bytes(jax.grad(lambda q, f=layer: f(q).astype(jnp.float32).sum()), array) / MIB
    again = 3 * (C - 1) / C * block(N) + (C - 1) * n * WHERE / MIB
    assert total["attention"] - total["none"] == again
