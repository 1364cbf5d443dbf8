"""What only the backward TPU kernel has to show: its sums of dq in HBM, its strips and its tiles."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.attention import reference
from pallas_kernels.attention.pair import row_stats
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.tpu import backward as tpu_backward
from pallas_kernels.attention.tpu.sizes import Blocks
from pallas_kernels.masks import Causal, Full, Segments, TokenInfo, Window
from tests.helpers import assert_close, one_document, packed, problem, slow, truth

SMALL = Blocks(128, 128, 128, 128)
TILED = Blocks(256, 256, 128, 128)  # pairs of two strips, and of four tiles


def check(p, spec, blocks, terms):
    @jax.jit
    def grads(p):
        stats = row_stats(reference.forward(p.inputs(), spec), (p.dout, p.dlse))
        return tpu_backward.grads(p.inputs(), spec, stats, blocks)

    got = grads(p)
    assert_close(got, truth(p, spec)[2:], p.q.dtype, terms)


@pytest.fixture
def as_the_machine_does_it(monkeypatch):
    """Memory starts as NaN, and a copy lands no earlier than somebody waits for it."""
    memory = pltpu.InterpretParams(uninitialized_memory="nan", dma_execution_mode="on_wait", detect_races=True)
    call = pl.pallas_call
    monkeypatch.setattr(pl, "pallas_call", lambda *args, **how: call(*args, **{**how, "interpret": memory}))


def mostly_padding(T):
    """Two rows: documents all along, and one short document."""
    full, short = packed(4, 1, T, mean=150), packed(4, 1, T, mean=20, padding=T - 40)
    return TokenInfo(*(jnp.concatenate(both) for both in zip(full, short, strict=True)))


@pytest.mark.usefixtures("as_the_machine_does_it")
@pytest.mark.parametrize(
    "shape, mask, blocks",
    [
        (dict(T=390, N=1, K=1, B=2, infos="mostly padding"), Causal() & Segments(), SMALL),
        *slow(
            (dict(T=260, N=3, K=1), Causal(), SMALL),
            (dict(T=512, N=2, K=1), Causal(), TILED),
            (dict(T=100, S=390, N=1, K=1), Full(), SMALL),  # every step adds to the same block of dq
            (dict(T=390, S=100, N=1, K=1), Full(), SMALL),
        ),
    ],
    ids=["idle-steps", "group", "tiles", "one-q-block", "one-k-block"],
)
def test_dq_is_summed_in_memory(shape, mask, blocks):
    if "infos" in shape:
        shape = {**shape, "infos": (mostly_padding(shape["T"]),) * 2}
    check(problem(3, **{"B": 1, **shape}), AttentionSpec(mask), blocks, 400)


@pytest.mark.parametrize(
    "dtype, mask, start",
    [("bfloat16", Causal() & Window(300), 0), ("float32", Causal(), 130), *slow(("float32", Causal(), 0))],
)
def test_tiles_of_a_pair(dtype, mask, start):
    infos = one_document(1, 600, start), one_document(1, 600)
    p = problem(5, B=1, T=600, N=2, K=1, H=64, dtype=dtype, infos=infos)
    check(p, AttentionSpec(mask, scale=0.3, soft_cap=4.0), TILED, 600)
