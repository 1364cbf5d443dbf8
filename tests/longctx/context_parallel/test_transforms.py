"""`attention` eagerly, in jit, grad, remat, scan and vmap, laid out and in natural order; learned sinks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longctx import meshes
from longctx.config import MeshConfig
from longctx.context_parallel import api
from longctx.memory.remat import checkpointed
from pallas_kernels import masks
from pallas_kernels.attention.spec import AttentionSpec
from tests.helpers import assert_close, nightly, packed, problem, slow, truth
from tests.longctx.context_parallel.cut import attend
from tests.longctx.context_parallel.traffic import sent_bytes

MESH = MeshConfig(context=4)


def placed(p, mesh):
    put = lambda x: jax.device_put(x, jax.sharding.NamedSharding(mesh, meshes.HEADS))
    return put(p.q), put(p.k), put(p.v)


def test_without_a_mesh_and_eagerly():
    p = problem(T=40)
    out, lse = attend(p.q, p.k, p.v, mask=masks.Causal(), with_lse=True)
    assert_close((out, lse), truth(p, AttentionSpec(masks.Causal()))[:2], "float32", 40)


@pytest.mark.parametrize("strategy", [*slow("ring"), *nightly("all_gather", "ulysses")])
def test_eagerly_as_under_jit(strategy):
    p, mesh = problem(B=1, T=8, H=8), meshes.make(MeshConfig(context=2))
    with jax.set_mesh(mesh):
        f = lambda q, k, v: attend(q, k, v, strategy=strategy, kernel="reference")
        loss = lambda *x: (f(*x).astype(jnp.float32) ** 2).sum()
        eager, jitted = f(*placed(p, mesh)), jax.jit(f)(*placed(p, mesh))
        grads = jax.grad(loss, (0, 1, 2))(*placed(p, mesh))
        jitted_grads = jax.jit(jax.grad(loss, (0, 1, 2)))(*placed(p, mesh))
    assert_close((eager, grads), (jitted, jitted_grads), "float32", 32)


@pytest.mark.parametrize("strategy", ["ring", *slow("ulysses"), *nightly("dispatch")])
def test_scan_and_remat(strategy):
    """Two layers of out = attend(out), against the same without devices and without jax.checkpoint."""
    p, mesh = problem(B=1, T=32, N=4, K=4, H=8), meshes.make(MESH)

    def loss(q, k, v, remat, strategy):
        body = checkpointed(lambda x, _: (attend(x, k, v, strategy=strategy, layout="contiguous"), None), remat)
        return (jax.lax.scan(body, q, None, length=2)[0] ** 2).sum()

    grad = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=(3, 4))
    want = grad(p.q, p.k, p.v, "none", "local")
    with jax.set_mesh(mesh):
        got = grad(*placed(p, mesh), "attention", strategy)
    assert_close(got, want, "float32", 64)


def test_vmap_over_batch():
    p = problem(B=3, T=32, H=8)
    want = truth(p._replace(dlse=jnp.zeros_like(p.dlse)), AttentionSpec(masks.Causal()))
    q, k, v, dout = (x[:, None] for x in (p.q, p.k, p.v, p.dout))
    with jax.set_mesh(meshes.make(MESH)):
        out, pull = jax.vjp(jax.jit(jax.vmap(lambda q, k, v: attend(q, k, v, strategy="ring"))), q, k, v)
        grads = pull(dout)
    assert_close([x[:, 0] for x in (out, *grads)], [want[0], *want[2:]], "float32", 32)


@pytest.mark.parametrize("strategy", ["ring", "lightseq", "token_ring", "double_ring"])
def test_remat_attends_forward_once(strategy):
    """out and lse are saved by name: the backward of a rematerialised layer makes no forward hop again."""
    p, config = problem(B=1, T=64), MeshConfig(context_outer=2, context=2)
    mesh = meshes.make(config)

    def traffic(remat):
        layer = checkpointed(lambda q, k, v: attend(q, k, v, strategy=strategy), remat)
        with jax.set_mesh(mesh):
            return sent_bytes(jax.grad(lambda *x: layer(*x).sum(), (0, 1, 2)), *placed(p, mesh))

    assert traffic("attention") == traffic("none") < traffic("layer")


@pytest.mark.parametrize("how", [dict(), dict(strategy="ulysses", layout="contiguous"), dict(layout="striped")])
def test_attention_in_one_call(how):
    p = problem(B=2, T=32)
    with jax.set_mesh(meshes.make(MESH)):
        out, lse = jax.jit(lambda q, k, v: api.attention(q, k, v, with_lse=True, **how))(p.q, p.k, p.v)
    assert_close((out, lse), truth(p, AttentionSpec(masks.Causal()))[:2], "float32", 32)


def test_attention_in_one_call_restarts_positions_in_every_document():
    info = packed(3, 2, 64)
    p, mask = problem(T=64, infos=(info, info)), masks.parse("causal & (window(4) | sinks(2))")
    f = lambda q, k, v: api.attention(q, k, v, segments=info.segments, mask=mask)
    with jax.set_mesh(meshes.all_context()):
        out, pull = jax.vjp(jax.jit(f), p.q, p.k, p.v)
        grads = pull(p.dout)
    want = truth(p._replace(dlse=jnp.zeros_like(p.dlse)), AttentionSpec(mask & masks.Segments()))
    assert_close((out, *grads), (want[0], *want[2:]), "float32", 64)


@pytest.mark.parametrize("strategy", ["ring", "ulysses"])
def test_learned_sinks(strategy):
    """One more column of logits in the softmax, and gradients to it, also where it is all that a row sees."""
    info = packed(5, 1, 32)
    p = problem(B=1, T=32, H=8, infos=(info, info))
    sinks = jnp.array([0.5, -1.0, 2.0, 0.0])

    def dense(q, k, v, sinks):
        k, v = jnp.repeat(k, 2, 2), jnp.repeat(v, 2, 2)
        see = masks.visible(masks.Causal() & masks.Segments(), info, info)[:, None]
        s = jnp.where(see, jnp.einsum("BTNH,BSNH->BNTS", q, k) * 8**-0.5, -jnp.inf)
        s = jnp.concatenate([s, jnp.broadcast_to(sinks[None, :, None, None], (1, 4, 32, 1))], -1)
        return jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(s, -1)[..., :-1], v)

    def ours(q, k, v, sinks):
        return attend(q, k, v, positions=info.positions, segments=info.segments, sinks=sinks, strategy=strategy)

    pull = lambda f: jax.jit(jax.value_and_grad(lambda *x: (f(*x) * p.dout).sum(), (0, 1, 2, 3)))
    want = pull(dense)(p.q, p.k, p.v, sinks)
    with jax.set_mesh(meshes.make(MESH)):
        got = pull(ours)(p.q, p.k, p.v, sinks)
    assert np.isfinite(got[1][3]).all()
    assert_close(got, want, "float32", 64)
