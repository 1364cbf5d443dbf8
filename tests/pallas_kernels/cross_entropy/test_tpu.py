"""What only the TPU kernels have to show: several blocks, Mosaic's memory rules, refusals, the real compiler.

That they compute what they should is in test_cross_entropy.py, which runs every implementation.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import tpu_chips
from pallas_kernels.cross_entropy import api
from pallas_kernels.cross_entropy.spec import CrossEntropySpec
from pallas_kernels.cross_entropy.tpu import kernel as tpu
from pallas_kernels.cross_entropy.tpu import sizes as tpu_sizes
from tests.helpers import NEEDS_TPU_COMPILER, assert_close, compiled_for_tpu, nightly, slow
from tests.pallas_kernels.cross_entropy.test_cross_entropy import inputs, run, truth


def check(dtype, spec, M, D, V):
    x, head, targets, cotangent = inputs(M, D, V, dtype)
    p = x * D**-0.5, head, targets, cotangent  # logits of size 1
    assert_close(run(*p, spec, "tpu"), truth(*p, spec), dtype, max(D, V))


@pytest.mark.parametrize(
    "dtype, soft_cap, shape",
    [("float32", 2.0, (300, 200, 700)), ("bfloat16", 0.0, (129, 640, 513)), *slow(("float32", 0.0, (128, 1152, 256)))],
)
def test_several_blocks_on_either_side(dtype, soft_cap, shape, monkeypatch):
    monkeypatch.setattr(tpu_sizes, "VMEM", 7 * 2**19)
    check(dtype, CrossEntropySpec(soft_cap, chunk=128), *shape)


@pytest.mark.parametrize("V", [100, 600])
def test_two_cores_share_the_vocabulary(V, monkeypatch):
    monkeypatch.setattr(tpu_sizes, "VMEM", 5 * 2**19)
    monkeypatch.setattr(tpu_chips, "current", lambda: "v4")
    assert tpu_sizes.backward((200, 256, 600), jnp.float32, 128).columns == 256  # three blocks: 2 and 1
    check("float32", CrossEntropySpec(chunk=128), 200, 256, V)


@pytest.mark.parametrize("M", [100, *slow(300)])
def test_mosaic_memory_rules(M, monkeypatch):
    """The machine's rules: memory starts as NaN, and a copy lands no earlier than somebody waits for it."""
    memory = pltpu.InterpretParams(uninitialized_memory="nan", dma_execution_mode="on_wait", detect_races=True)
    call = pl.pallas_call
    monkeypatch.setattr(pl, "pallas_call", lambda *args, **how: call(*args, **{**how, "interpret": memory}))
    monkeypatch.setattr(tpu_sizes, "VMEM", 4 * 2**20)
    check("float32", CrossEntropySpec(chunk=128), M, 640, 700)


@pytest.mark.parametrize(
    "dtype, D, platform, words",
    [
        (jnp.bfloat16, 32, "gpu", "runs on TPU"),
        (jnp.float16, 32, "tpu", "float16"),
        (jnp.bfloat16, 32, "tpu", None),
        (jnp.bfloat16, 2**17, "tpu", "size 131072"),
        (jnp.bfloat16, 8192, "tpu", None),
    ],
)
def test_why_not_says_why(dtype, D, platform, words):
    x, head = jax.ShapeDtypeStruct((64, D), dtype), jax.ShapeDtypeStruct((D, 100), dtype)
    reason = tpu.why_not(x, head, CrossEntropySpec(), platform)
    assert reason is None if words is None else words in reason


def test_auto_is_the_fastest_that_can():
    x, head = jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((32, 100), jnp.bfloat16)
    assert [api.select("auto", x, x, CrossEntropySpec(), platform) for platform in ("tpu", "cpu", "gpu")] == [
        tpu,
        api.chunked,
        api.chunked,
    ]
    assert api.select("auto", x, head, CrossEntropySpec(), "tpu") is api.chunked
    with pytest.raises(NotImplementedError, match="tpu: takes bfloat16 or float32"):
        api.select("tpu", x, head, CrossEntropySpec(), "tpu")
    with pytest.raises(ValueError, match="Known: auto, reference, chunked, tpu"):
        api.select("cutlass", x, head, CrossEntropySpec())


@NEEDS_TPU_COMPILER
@pytest.mark.parametrize(
    "chip, shape, dtype",
    [
        *slow(("v5e", (4000, 256, 9001), "bfloat16")),
        *nightly(
            ("v6e", (20000, 200, 5001), "float32"),
            ("v4", (8192, 4096, 128256), "bfloat16"),
            ("v5p", (10000, 8192, 128256), "bfloat16"),
            ("v5e", (20000, 2000, 50257), "float32"),
            ("tpu7x", (8192, 4096, 32000), "bfloat16"),
        ),
    ],
)
def test_the_tpu_compiler_takes_it(chip, shape, dtype):
    lines = compiled_for_tpu(
        "tests.pallas_kernels.cross_entropy.compile_for_tpu", chip, *map(str, shape), dtype, timeout=280
    )
    forward, backward = map(str.split, lines)
    assert (forward[:2], backward[:2]) == (["forward", "1"], ["backward", "1"])
    a_quarter_of_the_logits = shape[0] * shape[2]  # bytes, of float32
    assert max(int(forward[2]), int(backward[2])) < a_quarter_of_the_logits
