"""Attention problems cut over simulated devices, against the float64 reference: values and all gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from longctx import layouts, meshes
from longctx.config import MeshConfig
from longctx.context_parallel import api
from pallas_kernels import masks
from pallas_kernels.attention.spec import AttentionSpec
from tests.helpers import Problem, assert_close, truth


@functools.partial(jax.jit, static_argnums=(4, 5))
def attend_and_pull(arrays, tokens, table, cotangent, mask, how):
    """(out, lse, dq, dk, dv, and dtable if there is a table) of `attend`. how: pairs of its other arguments.

    `attend` in how replaces api.attend. No gradient flows into lse = -inf.
    """
    how = dict(how)
    attend = how.pop("attend", api.attend)
    f = lambda q, k, v, *table: attend(
        q,
        k,
        v,
        positions=tokens.positions,
        segments=tokens.segments,
        mask=mask,
        table=table[0] if table else None,
        with_lse=True,
        **how,
    )
    result, pull = jax.vjp(f, *arrays, *table)
    dout, dlse = cotangent
    return *result, *pull((dout.astype(result[0].dtype), jnp.where(jnp.isfinite(result[1]), dlse, 0.0)))


def run(p: Problem, mask: masks.Mask, config: MeshConfig, layout="contiguous", table=None, kernel="reference", **how):
    """(out, lse, dq, dk, dv, and dtable if there is one) over the mesh, the sequence laid out and put back in order.

    The kernel only sees pieces: mostly the one that compiles fastest will do.
    """
    mesh = meshes.make(config)
    T = p.q.shape[1]
    divides = T % config.context_shards == 0
    segments = np.asarray(p.tokens[0].segments)
    order = layouts.permutation(layout, segments, config.context_shards) if divides else np.arange(T)[None]
    laid_out = lambda x: layouts.permute(np.asarray(x), order)
    put = lambda x, spec: jax.device_put(laid_out(x), jax.sharding.NamedSharding(mesh, spec)) if divides else x
    tokens = jax.tree.map(lambda x: put(x, meshes.TOKENS), p.tokens[0])
    *arrays, dout = (put(x, meshes.HEADS) for x in (p.q, p.k, p.v, p.dout))
    with jax.set_mesh(mesh):
        results = attend_and_pull(
            arrays,
            tokens,
            [] if table is None else [table],
            (dout, put(p.dlse, meshes.LSE)),
            mask,
            tuple({"layout": layout, "kernel": kernel, **how}.items()),
        )
    in_order = [layouts.permute(np.asarray(x), layouts.inverse(order)) for x in results[:5]]
    return in_order + [np.asarray(x) for x in results[5:]]


def check(p: Problem, mask: str, config: MeshConfig, layout="contiguous", table=None, terms=64, **how):
    """Asserts that `run` gives the reference's arrays, to the tolerance of the problem's dtype."""
    got = run(p, masks.parse(mask), config, layout, table, **how)
    scores = {name: how[name] for name in ("soft_cap", "bias") if name in how}
    spec = AttentionSpec(masks.parse(mask) & masks.Segments(), block=16, **scores)
    assert_close(got, truth(p, spec, table), p.q.dtype, terms, f"{how} {layout} {mask} {config}")
