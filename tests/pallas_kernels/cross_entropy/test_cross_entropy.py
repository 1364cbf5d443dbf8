import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.cross_entropy import api
from pallas_kernels.cross_entropy.spec import CrossEntropySpec
from tests.helpers import assert_close


def inputs(M=37, D=16, V=50, dtype="float32"):
    rng = np.random.default_rng(0)
    draw = lambda *s: jnp.asarray(rng.standard_normal(s), dtype)
    return (
        draw(M, D),
        draw(D, V),
        jnp.asarray(rng.integers(0, V, M), jnp.int32),
        jnp.asarray(rng.standard_normal((2, M)), jnp.float32),
    )


def run(x, head, targets, cotangent, spec, implementation):
    """Scores, lse and both gradients, compiled as one program: made anew each time, since tests replace block sizes."""

    def both(x, head, targets, cotangent):
        pair, pull = jax.vjp(lambda x, h: api.head_scores(x, h, targets, spec, implementation), x, head)
        return *pair, *pull(tuple(cotangent))

    return jax.jit(both)(x, head, targets, cotangent)


def truth(x, head, targets, cotangent, spec):
    with jax.enable_x64(True):
        x, head, cotangent = (jnp.asarray(np.asarray(a, np.float64)) for a in (x, head, cotangent))
        return jax.tree.map(np.asarray, run(x, head, targets, cotangent, spec, "reference"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("soft_cap", [0.0, 3.0])
@pytest.mark.parametrize("implementation, chunk", [("chunked", 8), ("chunked", 64), ("tpu", 64)])
def test_every_implementation_is_the_definition(dtype, soft_cap, implementation, chunk):
    x, head, targets, cotangent = inputs(dtype=dtype)
    p = x, head, targets.at[:4].set(jnp.asarray([-1, 50, 2**31 - 1, -(2**31)])), cotangent  # these have score 0
    spec = CrossEntropySpec(soft_cap, chunk)
    assert_close(run(*p, spec, implementation), truth(*p, spec), dtype, 50)


@pytest.mark.parametrize("implementation", ["chunked", "tpu"])
def test_parts_of_the_vocabulary_merge_exactly(implementation):
    x, head, targets, cotangent = inputs()
    spec = CrossEntropySpec(chunk=8)

    def loss(x, head, cuts):
        parts = [
            api.head_scores(x, h, targets - at, spec, implementation)
            for at, h in zip(np.cumsum([0, *cuts]), jnp.split(head, np.cumsum(cuts), axis=1), strict=True)
        ]
        lse = jax.nn.logsumexp(jnp.stack([lse for _, lse in parts]), axis=0)
        return ((lse - sum(score for score, _ in parts)) * cotangent[0]).sum()

    grad = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
    assert_close(grad(x, head, (13, 20)), grad(x, head, ()), "float32", 50)


def test_no_array_of_all_logits_exists():
    x, head, targets, cotangent = (
        jax.ShapeDtypeStruct(s, d)
        for s, d in (
            ((8192, 16), jnp.float32),
            ((16, 512), jnp.float32),
            ((8192,), jnp.int32),
            ((2, 8192), jnp.float32),
        )
    )
    f = jax.jit(lambda *a: run(*a, CrossEntropySpec(chunk=256), "chunked"))
    assert f.lower(x, head, targets, cotangent).compile().memory_analysis().temp_size_in_bytes < 8192 * 512 * 4 / 4
