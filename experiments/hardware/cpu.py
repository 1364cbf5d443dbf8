"""What this machine's processor takes for the parts of a program, measured when it is asked for."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.hlo.passes import Form
from longctx.config import ModelConfig

ENOUGH, LEAST = 0.15, 4  # a part is run for so many seconds and times at least, and the fastest time counts
LARGE, SMALL = 2**22, 2**18  # numbers of float32 that no cache of a core holds, and that one does
LONGEST = 8192  # tokens of the rows that attention is measured on
_DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16, "f16": jnp.float16, "f64": jnp.float64}


class Machine:
    """The seconds that parts of a program take here, each measured once, with all the threads that jax has."""

    def product(self, form: Form) -> float:
        """Seconds of one matrix product."""
        return _product(form)

    @functools.cached_property
    def bandwidth(self) -> float:
        """Bytes per second of a pass over arrays: those that it reads and the one that it writes."""
        a, b, c = (jnp.full(LARGE, value, jnp.float32) for value in (1.5, 0.5, 0.25))
        return 4 * a.nbytes / seconds(jax.jit(lambda a, b, c: a * b + c), a, b, c)

    @functools.cached_property
    def costly(self) -> float:
        """Seconds of one exponential, beside the pass over memory that it is in."""
        x = jnp.linspace(-5.0, 5.0, SMALL)
        plain, more = (seconds(jax.jit(f), x) for f in (lambda x: x * x, lambda x: jnp.exp(x * x)))
        return max(more - plain, 0.0) / SMALL

    @functools.cached_property
    def peak(self) -> float:
        """FLOPs per second of a large product in float32."""
        n = 2048
        return 2 * n**3 / self.product(Form("f32", "f32", (n, n), (n, n), ((1,), (0,)), ((), ())))

    def attention(self, model: ModelConfig, length: int) -> tuple[float, float]:
        """Seconds of attention's (forward, backward) per pair of tokens in rows of a length, all heads together.

        A pair is one that a causal mask leaves; what blocks on the diagonal compute beside is part of its price.
        """
        measured = min(length, LONGEST)
        forward, both = _attention(model.heads, model.kv_heads, model.head_dim, model.dtype, measured)
        pairs = measured * (measured + 1) / 2 / _diagonal(measured) * _diagonal(length)
        return forward / pairs, max(both - forward, 0.0) / pairs


def seconds(function: Callable, *args) -> float:
    """The fastest time of several calls, after one that compiles."""
    jax.block_until_ready(function(*args))
    times: list[float] = []
    while sum(times) < ENOUGH or len(times) < LEAST:
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - start)
    return min(times)


@functools.cache
def _product(form: Form) -> float:
    draw = np.random.default_rng(0).standard_normal
    left, right = (jnp.asarray(draw(dims), _DTYPES[form.dtype]) for dims in (form.left, form.right))
    dims, result = (form.contracted, form.batch), _DTYPES[form.result]
    return seconds(jax.jit(lambda a, b: jax.lax.dot_general(a, b, dims, preferred_element_type=result)), left, right)


@functools.cache
def _attention(heads: int, kv_heads: int, head_dim: int, dtype: str, length: int) -> tuple[float, float]:
    """Seconds of (the forward, forward and backward) of causal attention on one row."""
    import longctx as lc

    draw = np.random.default_rng(0).standard_normal
    q, dout = (jnp.asarray(draw((1, length, heads, head_dim)), dtype) for _ in range(2))
    k, v = (jnp.asarray(draw((1, length, kv_heads, head_dim)), dtype) for _ in range(2))
    attend = lambda q, k, v: lc.attention(q, k, v, mask=lc.Causal())

    def both(q, k, v, dout):
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(dout)

    return seconds(jax.jit(attend), q, k, v), seconds(jax.jit(both), q, k, v, dout)


def _diagonal(length: int) -> float:
    """What blocks compute over what a causal mask leaves."""
    from pallas_kernels.attention import chunked

    block = next(block for longest, block in chunked.BLOCKS if length <= longest)
    return 1 + block / length
