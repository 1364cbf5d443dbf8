"""The TPU decode kernel, interpreted, as every kernel; its blocks, its pages, and what it reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import masks, tpu_chips
from pallas_kernels.attention import api, blocks
from pallas_kernels.attention import decode as plain
from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.pair import Inputs, Pair, Stack
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.tpu import decode, kernel
from pallas_kernels.masks import Causal, Sinks, TokenInfo, Window
from pallas_kernels.testing import KernelCases, Sizes
from tests.helpers import (
    NEEDS_TPU_COMPILER,
    assert_close,
    compiled_for_tpu,
    input_types,
    later,
    mask_cases,
    nightly,
    one_document,
    problem,
    slow,
    truth,
)


class TestTpuDecode(KernelCases):
    kernel = "tpu_decode"
    sizes = Sizes(T=plain.QUERIES)
    block = 128
    cuts = (2, *slow(5))
    shapes = {
        "mha": dict(T=1, S=300, N=4, K=4),
        "mqa": dict(T=3, S=40, N=4, K=1),
        "gqa": dict(T=5, S=7, N=6, K=3, H=8),
        "one_token": dict(T=1, S=1),
        "whole_blocks": dict(T=2, S=256, B=1, H=128),
    }
    test_empty_blocks_are_not_visited = None  # its blocks are too long for so few queries; below

    @pytest.mark.parametrize("mask, dtype", mask_cases(("sinks", "bfloat16")))
    def test_masks(self, mask, dtype):
        super().test_masks(mask, dtype)

    @pytest.mark.parametrize("shape", later(shapes, "mqa", "gqa"))
    def test_shapes(self, shape):
        super().test_shapes(shape)


@pytest.mark.parametrize(
    "chip, shape, dtype",
    [
        ("v6e", dict(T=2, S=300, N=8, K=4, H=128), "bfloat16"),  # two heads fill the matrix unit
        ("v6e", dict(T=1, S=390, N=6, K=3, H=64), "float32"),  # three do, of four
        ("v5p", dict(T=1, S=300, N=4, K=4, H=64), "float32"),  # one pack for each of two cores
        ("v5e", dict(T=3, S=520, N=2, K=2, H=80), "bfloat16"),
        ("v5e", dict(T=16, S=260, N=24, K=2, H=16), "float32"),  # packs take the stages one after the other
    ],
)
def test_packs_of_heads(chip, shape, dtype, monkeypatch):
    monkeypatch.setattr(tpu_chips, "current", lambda: chip)
    p = problem(1, B=1, dtype=dtype, infos=(one_document(1, shape["T"], 250), one_document(1, shape["S"])), **shape)
    spec = AttentionSpec(Causal() & Window(200), soft_cap=5.0, block=128)
    got = jax.jit(lambda x: decode.forward(x, spec))(p.inputs())
    assert_close(got, truth(p, spec)[:2], dtype, 300)


def cached(B, S, lengths, window=None):
    """Infos of one new token of each row and of a cache of S slots, a ring of them where there is a window."""
    slot, length = np.arange(S)[None], np.asarray(lengths)[:, None]
    position = slot if window is None else length - 1 - (length - 1 - slot) % S
    segments = ((position >= 0) & (position < length)).astype(np.int32)
    position = np.broadcast_to(position, segments.shape)
    queries = TokenInfo(jnp.asarray(length, jnp.int32), jnp.ones((B, 1), jnp.int32))
    return queries, TokenInfo(jnp.asarray(np.maximum(position, 0), jnp.int32), jnp.asarray(segments))


@pytest.mark.parametrize(
    "mask, lengths, window",
    [
        (Causal(), (0, 1, 700, 128), None),  # rows of different lengths, one of them empty
        (Causal() & Window(384), (900, 384, 5, 1000), 384),  # a ring, in which positions jump
        (Causal() & (Window(100) | Sinks(4)), (700, 3, 129, 600), None),
    ],
    ids=["lengths", "ring", "sinks"],
)
def test_only_blocks_with_work_are_read(mask, lengths, window):
    """NaN in every other block changes nothing, and the kernel is told of as many blocks as have visible keys."""
    S, spec = window or 700, AttentionSpec(mask, block=128)
    infos = cached(4, S, lengths, window)
    p = problem(2, B=4, T=1, S=S, N=4, K=2, H=32, infos=infos)
    want = truth(p, spec)[:2]
    see = np.pad(np.asarray(masks.visible(mask, *infos))[:, 0], ((0, 0), (0, -S % 128)))
    seen = see.reshape(4, -1, 128).any(-1)
    unread = jnp.asarray(~np.repeat(seen, 128, 1)[:, :S, None, None])
    p = p._replace(k=jnp.where(unread, jnp.nan, p.k), v=jnp.where(unread, jnp.nan, p.v))
    assert_close(jax.jit(lambda x: decode.forward(x, spec))(p.inputs()), want, "float32", S)
    assert read(p.inputs(), spec) == seen.sum()


def read(x, spec) -> int:
    """How many blocks of keys the pipeline of a kernel fetches: those whose place is not that of the step before."""
    keys = decode._Keys(None, None, blocks.pad_info(x.k_info, 128))
    block_list, places, steps = decode._walk(spec.mask, x.q_info, keys, 128)
    places = np.asarray(places)[:, : int(steps)]
    return 1 + int((np.diff(places) != 0).any(0).sum())


def paged(seed, B, count, page, K=2, H=32, dtype="float32"):
    """(pool of NaN but for the pages of a table, the table): a page more in the pool than rows have."""
    rng = np.random.default_rng(seed)
    P = B * count + 1
    draw = lambda *shape: jnp.asarray(rng.standard_normal((P, *shape)), dtype)
    table = rng.permutation(P)[: B * count].reshape(B, count).astype(np.int32)
    at, ones = np.zeros((P, page), np.int32), np.ones((P, page), np.int32)
    at[table] = np.arange(count * page).reshape(count, page)
    info = TokenInfo(jnp.asarray(at), jnp.asarray(ones))
    return decode.Pages(draw(K, H, page), draw(K, page, H), info), jnp.asarray(table)


def without_unused(pages, table, used):
    """NaN in the pages that no row uses, and no place of theirs in the table."""
    table = jnp.where(jnp.arange(table.shape[1])[None] < used[:, None], table, -1)
    others = ~jnp.isin(jnp.arange(len(pages.k)), table)[:, None, None, None]
    return pages._replace(k=jnp.where(others, jnp.nan, pages.k), v=jnp.where(others, jnp.nan, pages.v)), table


@pytest.mark.parametrize("H, dtype, page", [(128, "bfloat16", 128), (32, "float32", 16), *slow((32, "float32", 128))])
def test_pages_are_as_one_row(H, dtype, page):
    """Bit for bit the contiguous kernel in the same blocks; and unused pages, here NaN, are not read."""
    B, count, lengths = 3, 4, jnp.array([3 * page + 5, 0, page], jnp.int32)
    pages, table = paged(3, B, count, page, H=H, dtype=dtype)
    q = problem(4, dtype, B=B, T=2, N=4, K=2, H=H).q
    q_info = TokenInfo(lengths[:, None] + jnp.arange(2)[None], jnp.ones((B, 2), jnp.int32))
    spec = AttentionSpec(Causal(), block=page)
    want = jax.jit(lambda *arrays: decode.paged_reference(*arrays[:4], spec, arrays[4]))(
        q, q_info, pages, table, lengths
    )
    pages, table = jax.jit(without_unused)(pages, table, -(-lengths // page))
    got = jax.jit(lambda *arrays: decode.paged(*arrays[:4], spec, arrays[4]))(q, q_info, pages, table, lengths)
    assert_close(got, want, dtype, count * page)
    assert not np.asarray(got.out)[1].any() and np.isneginf(got.lse[1]).all()
    if page == 128:
        k = np.asarray(pages.k)[table].transpose(0, 1, 4, 2, 3).reshape(B, -1, 2, H)
        v = np.asarray(pages.v)[table].swapaxes(2, 3).reshape(B, -1, 2, H)
        position = jnp.broadcast_to(jnp.arange(count * page), (B, count * page))
        info = TokenInfo(position, (position < lengths[:, None]).astype(jnp.int32))
        whole = jax.jit(lambda x: decode.forward(x, spec))(Inputs(q, k, v, q_info, info))
        assert all(np.array_equal(*both) for both in zip(got, whole, strict=True))


def test_a_layer_of_a_stack_is_as_that_layer_alone():
    """Bit for bit, on from a pair too; other layers, here NaN, are not read."""
    L, B, S, spec = 3, 2, 300, AttentionSpec(Causal(), block=128, partial=True)
    infos = cached(B, S, (290, 140))
    p = problem(5, "bfloat16", B=B, T=1, S=S, N=4, K=2, H=128, infos=infos)
    x, initial = p.inputs(), Pair(jnp.ones((B, 1, 4, 128), jnp.float32), jnp.ones((B, 1, 4), jnp.float32))
    want = [jax.jit(lambda x, pair: decode.forward(x, spec, pair))(x, pair) for pair in (None, initial)]
    k, v = x.k.transpose(0, 2, 3, 1), x.v.swapaxes(1, 2)
    alone = lambda y, layer: jnp.full((L, *y.shape), jnp.nan, y.dtype).at[layer].set(y)
    call = jax.jit(lambda stack, pair: decode.of_layer(x.q, x.q_info, stack, spec, pair))
    for layer in range(L):
        stack = Stack(alone(k, layer), alone(v, layer), x.k_info, jnp.int32(layer))
        for pair, wanted in zip((None, initial), want, strict=True):
            got = call(stack, pair)
            assert all(np.array_equal(*both) for both in zip(got, wanted, strict=True))
    narrow = Stack(jnp.zeros((L, B, 2, 64, S)), jnp.zeros((L, B, 2, S, 64)), x.k_info, jnp.int32(0))
    with pytest.raises(NotImplementedError, match="would copy the values of all layers, whose heads have 64 numbers"):
        decode.of_layer(jnp.zeros((B, 1, 4, 64)), x.q_info, narrow, spec)


@NEEDS_TPU_COMPILER
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "arguments",
    [
        *slow((("v5e", "32", "8", "128", "256", "bfloat16"),)),
        *nightly((("v6e", "9", "3", "64", "512", "bfloat16"),), (("v5p", "8", "1", "128", "128", "float32"),)),
    ],
)
def test_the_tpu_compiler_takes_pages(arguments):
    """What else is compiled is in tests/experiments/bench/test_decode_kernel.py."""
    worker = "tests.pallas_kernels.attention.tpu.compile_paged"
    assert compiled_for_tpu(worker, *arguments, timeout=200) == ["1", "True"]


def test_pages_that_cannot_be_are_refused():
    pages, table = paged(5, 1, 2, 128)
    q = jnp.zeros((1, 17, 4, 32))
    with pytest.raises(NotImplementedError, match="up to 16 queries of a row, not 17"):
        decode.paged(q, one_document(1, 17), pages, table, AttentionSpec())
    with pytest.raises(NotImplementedError, match="8 x 8192 blocks takes 786432 bytes of scalar memory"):
        decode.paged(jnp.zeros((8, 1, 4, 32)), one_document(8, 1), pages, jnp.zeros((8, 8192), int), AttentionSpec())
    with pytest.raises(NotImplementedError, match="no bias"):
        decode.paged(q[:, :1], one_document(1, 1), pages, table, AttentionSpec(bias=Alibi()))


@pytest.mark.parametrize(
    "dtype, T, S, platform, words",
    [
        (jnp.bfloat16, 1, 64, "gpu", "runs on TPU"),
        (jnp.bfloat16, 17, 64, "tpu", "up to 16 queries"),
        (jnp.float16, 1, 64, "tpu", "float16"),
        (jnp.bfloat16, 1, 2**26, "tpu", "counts to 8192"),
        (jnp.bfloat16, 16, 2**23, "tpu", None),
    ],
)
def test_why_not_says_why(dtype, T, S, platform, words):
    q, k = (jax.ShapeDtypeStruct((1, length, 2, 64), dtype) for length in (T, S))
    reason = decode.why_not(input_types(q, k), AttentionSpec(), platform)
    assert reason is None if words is None else words in reason


def test_it_is_taken_by_its_name_alone():
    x = input_types(*(jax.ShapeDtypeStruct((1, length, 2, 64), jnp.bfloat16) for length in (1, 640)))
    assert api.select("tpu_decode", x, AttentionSpec(), "tpu") is decode
    assert api.select("auto", x, AttentionSpec(), "tpu") is plain
    assert api.select("auto", x._replace(q=x.k, q_info=x.k_info), AttentionSpec(), "tpu") is kernel
