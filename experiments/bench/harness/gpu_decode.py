"""The decoding step of gpu_check: new queries of each row over their own keys, and over those in a cache.

Imports nothing but the standard library before it is called.
"""


def small_cache(case):
    """(Inputs of the cache, Inputs of the new tokens) of a case that is checked; keys BKHS, values BKSH in the cache.

    Rows are of different lengths, from a full one to an empty one, and tokens lie in no order in their slots.
    """
    import jax.numpy as jnp
    import numpy as np

    from pallas_kernels.masks import TokenInfo

    rng, S = np.random.default_rng(0), case.length
    lengths = np.linspace(S, 0, case.rows).astype(int)
    slots = np.stack([np.append(rng.permutation(n), np.zeros(S - n)) for n in lengths])
    held = np.arange(S) < lengths[:, None]
    old = TokenInfo(jnp.asarray(slots, jnp.int32), jnp.asarray(held, jnp.int32))
    return _inputs(case, lambda *shape: jnp.asarray(rng.standard_normal(shape), case.dtype), old, lengths)


def full_cache(case):
    """(Inputs of the cache, Inputs of the new tokens) of a timed case, drawn on the device; all slots are taken."""
    import itertools

    import jax
    import numpy as np

    from pallas_kernels.testing import one_document

    keys = map(jax.random.fold_in, itertools.repeat(jax.random.key(0)), itertools.count())
    draw = lambda *shape: jax.random.normal(next(keys), shape, case.dtype)
    return _inputs(case, draw, one_document(case.rows, case.length), np.full(case.rows, case.length))


def _inputs(case, draw, old, lengths):
    import jax.numpy as jnp

    from pallas_kernels.attention.pair import Inputs
    from pallas_kernels.masks import TokenInfo

    B, T, S, N, K, H = case.rows, case.queries, case.length, case.heads, case.kv_heads or case.heads, case.head_dim
    positions = jnp.asarray(lengths, jnp.int32)[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    new, q = TokenInfo(positions, jnp.ones_like(positions)), draw(B, T, N, H)
    return Inputs(q, draw(B, K, H, S), draw(B, K, S, H), new, old), Inputs(q, *draw(2, B, T, K, H), new, new)


def as_tokens(x):
    """Inputs with keys and values BSKH of Inputs of a cache, whose keys are BKHS and values BKSH."""
    return x._replace(k=x.k.transpose(0, 3, 1, 2), v=x.v.swapaxes(1, 2))


def decoded(case, p, programs):
    """The pair (out, lse) of the new queries over their own keys and then over those in the cache."""
    return programs("decode", _step(case))(*p)


def _spec(case):
    from pallas_kernels import masks
    from pallas_kernels.attention.spec import AttentionSpec

    return AttentionSpec(masks.Causal(), soft_cap=case.soft_cap, partial=True, block=case.block)


def _step(case):
    from pallas_kernels.attention import api

    spec = _spec(case)

    def step(old, new):
        pair = None
        for x in (new, as_tokens(old)):
            pair = api.select(case.route, x, spec).forward(x, spec, pair)
        return pair

    return step


def true_pair(case, p):
    """The pair by the float64 reference, over all keys at once."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from pallas_kernels.testing import Problem, truth

    old, new = as_tokens(p[0]), p[1]
    k, v, info = jax.tree.map(lambda *x: np.concatenate(x, 1), *((x.k, x.v, x.k_info) for x in (old, new)))
    zeros = np.zeros(new.q.shape[:3], np.float32)
    problem = Problem(new.q, k, v, new.q_info, info, np.zeros_like(new.q), zeros)
    return truth(jax.tree.map(jnp.asarray, problem), _spec(case))[:2]


def read_bytes(case) -> int:
    """The bytes of the keys and values in the cache, which a step cannot but read."""
    import numpy as np

    width = 4 if case.dtype == "float32" else 2
    return int(2 * width * np.prod([case.rows, case.kv_heads or case.heads, case.length, case.head_dim]))


def of_bandwidth(case, seconds: float) -> dict:
    """{"bytes_per_second", "of_bandwidth"} of a step: the latter as a part of what the device's memory can do."""
    import jax

    from pallas_kernels import gpu_chips

    kind, rate = jax.devices()[0].device_kind, read_bytes(case) / seconds
    peak = next((chip.bandwidth for chip in gpu_chips.CHIPS.values() if chip.kind == kind), None)
    return {"bytes_per_second": rate, "of_bandwidth": peak and rate / peak}
