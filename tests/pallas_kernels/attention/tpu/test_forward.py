"""What only the TPU kernels have to show: Mosaic's memory rules, their refusals, the real compiler, and several blocks.

The masks, and rows that see nothing, are in test_kernel.py.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from longctx.config import MeshConfig
from pallas_kernels import masks, tpu_chips
from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.tpu import forward as tpu_forward
from pallas_kernels.attention.tpu import kernel as tpu
from pallas_kernels.attention.tpu import sizes as tpu_sizes
from pallas_kernels.attention.tpu.sizes import Blocks
from pallas_kernels.masks import Causal, Segments
from tests.helpers import (
    NEEDS_TPU_COMPILER,
    assert_close,
    compiled_for_tpu,
    input_types,
    nightly,
    packed,
    piece_by_piece,
    problem,
    relative_error,
    results,
    slow,
    truth,
)
from tests.longctx.context_parallel import cut


@pytest.mark.parametrize(
    "shape, dtype",
    [
        (dict(T=129, S=300, N=4, K=1, H=80), "float32"),
        (dict(T=300, S=129, N=2, K=2, H=128), "bfloat16"),
        *slow((dict(T=257, S=257, N=6, K=2, H=64), "bfloat16"), (dict(T=100, S=260, N=1, K=1, H=256), "float32")),
    ],
)
def test_several_blocks_on_either_side(shape, dtype):
    p, spec = problem(1, B=1, dtype=dtype, **shape), AttentionSpec(Causal(), scale=0.2, soft_cap=5.0, block=128)
    assert_close(results(p, spec, "tpu"), truth(p, spec), dtype, 300)


@pytest.mark.parametrize(
    "chip, mask, dtype, H",
    [
        ("v6e", "causal & segments & window(150)", "float32", 64),
        ("v5e", "full", "bfloat16", 256),
        *slow(
            ("v5e", "causal & segments & window(150)", "float32", 64),
            ("v6e", "full", "bfloat16", 256),
            ("v6e", "causal", "bfloat16", 128),
        ),
        *nightly(("v5e", "causal", "bfloat16", 128)),
    ],
)
def test_tiles_of_either_orientation(chip, mask, dtype, H, monkeypatch):
    """Full blocks, diagonal ones, and some whose tiles are partly empty; the last keys first, and on from there."""
    monkeypatch.setattr(tpu_chips, "current", lambda: chip)
    monkeypatch.setitem(tpu_sizes.SIZES, ("forward", chip, H), Blocks(384, 384, 128, 128, 384))
    monkeypatch.setitem(tpu_sizes.FLOAT32, "forward", Blocks(384, 384, 128, 128, 384))
    info = packed(3, 1, 800, mean=500)
    p = problem(1, B=1, T=800, N=2, K=1, H=H, dtype=dtype, infos=(info, info) if "segments" in mask else None)
    spec = AttentionSpec(masks.parse(mask), soft_cap=5.0 if H == 256 else 0.0)
    assert_close(piece_by_piece(p, spec, "tpu", (700, 800), (0, 700)), truth(p, spec)[:2], dtype, 800)


def test_halves_of_scaled_queries_keep_sixteen_bits():
    q = problem(dtype="bfloat16").q
    halves = jax.jit(lambda q: tpu_forward._scaled(q, 0.3))(q).astype(jnp.float32)
    high, low = jnp.split(halves, 2, -1)
    assert relative_error(high + low, 0.3 * q.astype(jnp.float32)) < 2.0**-16


@pytest.mark.parametrize(
    "lengths, block, want",
    [
        ((9000, 9000), 0, Blocks(2048, 2048, 256, 512, 512)),
        ((300, 100), 0, Blocks(512, 128, 128, 512, 128)),
        ((9000, 9000), 384, Blocks(384, 384, 128, 128, 128)),
    ],
)
def test_blocks_are_whole_tiles(lengths, block, want):
    assert tpu_sizes.choose("forward", "bfloat16", 80, lengths, block) == want


@pytest.mark.parametrize(
    "strategy, layout, shards",
    [
        *slow(("ulysses", "contiguous", 2), ("ring", "zigzag", 2)),
        *nightly(("ring", "zigzag", 4), ("ring", "zigzag", 8)),
    ],
)
def test_pieces_of_a_cut_sequence(strategy, layout, shards, monkeypatch):
    # jax's interpreter does not type its loops as varying over the mesh
    monkeypatch.setattr(jax, "shard_map", functools.partial(jax.shard_map, check_vma=False))
    info = packed(2, 1, 512, mean=200)
    p = problem(B=1, T=512, N=4, K=2, infos=(info, info))
    cut.check(p, "causal", MeshConfig(context=shards), layout, strategy=strategy, kernel="tpu", terms=512)


def test_lists_of_pairs_too_long_for_scalar_memory(monkeypatch):
    monkeypatch.setattr(tpu, "_LIST", 4 * 3)  # three pairs
    info = packed(3, 1, 700, mean=300)
    p, spec = problem(2, B=1, T=700, N=2, K=1, infos=(info, info)), AttentionSpec(Causal() & Segments(), block=128)
    want = truth(p, spec)
    assert_close(results(p, spec, "tpu"), want, "float32", 700)
    assert_close(piece_by_piece(p, spec, "tpu", (0, 500), (500, 700)), want[:2], "float32", 700)


def test_mosaic_memory_rules(monkeypatch):
    """The machine's rules: memory starts as NaN, and a copy lands no earlier than somebody waits for it."""
    memory = pltpu.InterpretParams(uninitialized_memory="nan", dma_execution_mode="on_wait", detect_races=True)
    call = pl.pallas_call
    monkeypatch.setattr(pl, "pallas_call", lambda *args, **how: call(*args, **{**how, "interpret": memory}))
    info = packed(5, 1, 260, mean=90)
    p, spec = problem(B=1, T=260, N=2, K=1, infos=(info, info)), AttentionSpec(Causal() & Segments(), block=128)
    want = truth(p, spec)
    assert_close(results(p, spec, "tpu"), want, "float32", 260)
    assert_close(piece_by_piece(p, spec, "tpu", (0, 150), (150, 260)), want[:2], "float32", 260)


@pytest.mark.parametrize(
    "dtype, spec, T, platform, words",
    [
        (jnp.bfloat16, AttentionSpec(), 64, "gpu", "runs on TPU"),
        (jnp.bfloat16, AttentionSpec(bias=Alibi()), 64, "tpu", "no bias"),
        (jnp.float16, AttentionSpec(), 64, "tpu", "float16"),
        (jnp.bfloat16, AttentionSpec(), 2**23, "tpu", "524288 bytes of scalar memory"),
        (jnp.bfloat16, AttentionSpec(), 2**22, "tpu", None),
    ],
)
def test_why_not_says_why(dtype, spec, T, platform, words):
    q = jax.ShapeDtypeStruct((1, T, 2, 64), dtype)
    reason = tpu.why_not(input_types(q, q), spec, platform)
    assert reason is None if words is None else words in reason


def test_a_shard_map_that_checks_is_refused_on_cpu():
    info = packed(2, 1, 256, mean=200)
    p = problem(B=1, T=256, infos=(info, info))
    with pytest.raises(NotImplementedError, match="check_vma=False"):
        cut.check(p, "causal", MeshConfig(context=2), "contiguous", strategy="ring", kernel="tpu", terms=512)


@NEEDS_TPU_COMPILER
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "topology, mask, dtype, head_dim, block",
    [
        *slow(("v5e:2x2", "causal & segments", "bfloat16", 128, 512)),
        *nightly(
            ("v6e:2x2", "causal & (window(700) | sinks(4))", "float32", 256, 256),
            ("v4:2x2x1", "full", "bfloat16", 80, 1024),
            ("v5e:2x2", "(causal | prefix_lm(300)) & chunked(1000) & segments", "bfloat16", 64, 1024),
            ("tpu7x:2x2x1", "causal & window(512)", "bfloat16", 128, 1024),
        ),
    ],
)
def test_the_tpu_compiler_takes_it(topology, mask, dtype, head_dim, block):
    arguments = topology, mask, dtype, str(head_dim), str(block)
    assert compiled_for_tpu("tests.pallas_kernels.attention.tpu.compile_for_tpu", *arguments, timeout=800) == [
        "forward 1",
        "resumed 1",
        "backward 1",
    ]
