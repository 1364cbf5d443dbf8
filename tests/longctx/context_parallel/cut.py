"""Attention problems cut over simulated devices, against the float64 reference: values and all gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from longctx import layouts, meshes
from longctx.config import MeshConfig
from longctx.context_parallel import api
from pallas_kernels import masks
from pallas_kernels.attention.pair import Pair
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.testing import seen_dlse
from tests.helpers import Problem, assert_close, truth


def attend(q, k, v, *, positions=None, segments=None, layout="contiguous", with_lse=False, **how):
    """api.attention of a sequence that lies in `layout`; positions default to those of one document in it."""
    if positions is None:
        shape = jax.tree.leaves((q, v))[0].shape[:2]
        positions = np.arange(shape[1])[None]
        if layout != "contiguous":
            sizes = meshes.sizes()
            documents = np.ones((1, shape[1]), np.int32)
            positions = layouts.permutation(layout, documents, sizes["context_outer"] * sizes["context"])
        positions = jnp.broadcast_to(positions.astype(np.int32), shape)
    return api.attention(q, k, v, positions=positions, segments=segments, layout=layout, with_lse=with_lse, **how)


@functools.partial(jax.jit, static_argnums=(4, 5))
def attend_and_pull(arrays, info, bias_params, cotangent, mask, how):
    """(out, lse, dq, dk, dv, and dbias if there are bias_params) of `attend`. how: pairs of its other arguments.

    `attend` in how replaces api.attention. No gradient flows into lse = -inf.
    """
    how = dict(how)
    attend = how.pop("attend", api.attention)
    f = lambda q, k, v, *bias_params: attend(
        q,
        k,
        v,
        positions=info.positions,
        segments=info.segments,
        mask=mask,
        bias_params=bias_params[0] if bias_params else None,
        with_lse=True,
        **how,
    )
    pair, pull = jax.vjp(f, *arrays, *bias_params)
    dout, dlse = cotangent
    return *pair, *pull(Pair(dout.astype(pair.out.dtype), seen_dlse(pair.lse, dlse)))


def run(
    p: Problem, mask: masks.Mask, config: MeshConfig, layout="contiguous", bias_params=None, kernel="reference", **how
):
    """(out, lse, dq, dk, dv, and dbias if there is one) over the mesh, the sequence laid out and put back in order.

    The kernel only sees pieces: mostly the one that compiles fastest will do.
    """
    mesh = meshes.make(config)
    T = p.q.shape[1]
    divides = T % config.context_shards == 0
    segments = np.asarray(p.q_info.segments)
    order = layouts.permutation(layout, segments, config.context_shards) if divides else np.arange(T)[None]
    laid_out = lambda x: layouts.permute(np.asarray(x), order)
    put = lambda x, spec: jax.device_put(laid_out(x), jax.sharding.NamedSharding(mesh, spec)) if divides else x
    info = jax.tree.map(lambda x: put(x, meshes.TOKENS), p.q_info)
    *arrays, dout = (put(x, meshes.HEADS) for x in (p.q, p.k, p.v, p.dout))
    with jax.set_mesh(mesh):
        results = attend_and_pull(
            arrays,
            info,
            [] if bias_params is None else [bias_params],
            (dout, put(p.dlse, meshes.LSE)),
            mask,
            tuple({"layout": layout, "kernel": kernel, **how}.items()),
        )
    in_order = [layouts.permute(np.asarray(x), layouts.inverse(order)) for x in results[:5]]
    return in_order + [np.asarray(x) for x in results[5:]]


def check(p: Problem, mask: str, config: MeshConfig, layout="contiguous", bias_params=None, terms=64, **how):
    """Asserts that `run` gives the reference's arrays, to the tolerance of the problem's dtype."""
    got = run(p, masks.parse(mask), config, layout, bias_params, **how)
    scores = {name: how[name] for name in ("soft_cap", "bias") if name in how}
    spec = AttentionSpec(masks.parse(mask) & masks.Segments(), block=16, **scores)
    assert_close(got, truth(p, spec, bias_params), p.q.dtype, terms, f"{how} {layout} {mask} {config}")
