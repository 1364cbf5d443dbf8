"""generate and stream: prompts of different lengths together, greedy and sampled, on one device and several."""

import dataclasses

import jax
import numpy as np
import pytest

from longctx.config import LayerConfig, MeshConfig, RopeConfig
from longctx.errors import UserError
from longctx.generation import api, decode, reading
from tests.helpers import slow
from tests.longctx.generation.helpers import LENGTH, ONE, TINY, setup, uncached

# a full layer, and one whose ring is shorter than a chunk
MODEL = dataclasses.replace(TINY, pattern=(LayerConfig(), LayerConfig(mask="causal & (window(5) | sinks(2))")))
DYNAMIC = dataclasses.replace(TINY, layers=1, rope=RopeConfig(scaling="dynamic", factor=2.0, original_length=8))
LONGROPE = dataclasses.replace(
    TINY,
    layers=1,
    rope=RopeConfig(
        scaling="longrope", original_length=30, short_factors=(1.0,) * 4, long_factors=(1.0, 2.0, 4.0, 8.0)
    ),
)
CLEX = dataclasses.replace(TINY, layers=1, rope=RopeConfig(scaling="clex", factor=8.0, original_length=6))
PROMPTS = [np.random.default_rng(n).integers(0, TINY.vocab_size, n) for n in (21, 1, 16)]
NEW = 12


def generate(config=MODEL, mesh_config=ONE, prompts=PROMPTS, count=NEW, **how):
    mesh, graph, params = setup(config, mesh_config)
    with jax.set_mesh(mesh):
        return api.generate(graph, params, prompts, count, **{"chunk": 8, **how})


def by_hand(config, prompts, count, length=None):
    """Greedy tokens, each from a whole forward pass."""
    tokens, lengths = np.zeros((len(prompts), LENGTH), np.int32), np.array([len(prompt) for prompt in prompts])
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    rows, start = np.arange(len(prompts)), lengths.copy()
    for _ in range(count):
        logits = uncached(config, tokens, lengths, length=length)
        tokens[rows, lengths] = logits[rows, lengths - 1].argmax(-1)
        lengths += 1
    return [row[first : first + count] for row, first in zip(tokens, start, strict=True)]


def same(got, want):
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("longest, chunk, widths", [(16, 64, [16]), (17, 64, [64]), (21, 16, [16, 16]), (5, 8, [8])])
def test_short_prompts_are_read_in_a_short_chunk(monkeypatch, longest, chunk, widths):
    """The first token comes before the step for the next ones is compiled, and all are what they were."""
    read, steps = [], []
    whole, one = decode.read, decode.read_one
    monkeypatch.setattr(decode, "read", lambda *args: read.append(args[6]["tokens"].shape[1]) or whole(*args))
    monkeypatch.setattr(decode, "read_one", lambda *args: steps.append(1) or one(*args))
    mesh, graph, params = setup(TINY, ONE)
    prompts = [PROMPTS[0][:longest], PROMPTS[0][:2]]
    with jax.set_mesh(mesh):
        stream = api.stream(graph, params, prompts, 4, chunk=chunk)
        first = next(stream)
        assert read == widths and not steps
        got = np.stack([first, *stream], 1)
    assert len(steps) == 3
    same(list(got), by_hand(TINY, prompts, 4))


@pytest.mark.parametrize("mesh_config", [ONE, MeshConfig(data=2, context=2), *slow(MeshConfig(context=4))])
def test_greedy_tokens_are_those_of_the_uncached_model_on_any_mesh(mesh_config):
    """Three rows on two data shards: one is added, and dropped again."""
    got = generate(mesh_config=mesh_config)
    same(got, by_hand(MODEL, PROMPTS, NEW))
    assert all(row.dtype == np.int32 for row in got) and len({*np.concatenate(got)}) > 3


@pytest.mark.parametrize("mesh_config", [ONE, *slow(MeshConfig(data=2, context=2))])
def test_what_prompts_begin_with_is_read_once(monkeypatch, mesh_config):
    """Four prompts with 19 tokens in common: these in one row of each data shard, then the rests."""
    rest = lambda n: np.random.default_rng([7, n]).integers(0, TINY.vocab_size, n)
    prompts = [np.append(PROMPTS[0][:19], rest(n)) for n in (5, 1, 9, 3)]
    read, whole = [], decode.read
    monkeypatch.setattr(decode, "read", lambda *args: read.append(args[6]["tokens"].shape) or whole(*args))
    same(generate(mesh_config=mesh_config, prompts=prompts), by_hand(MODEL, prompts, NEW))
    assert [shape for shape in read if shape[1] == 8] == [(mesh_config.data, 8)] * 3 + [(4, 8)] * 2


def test_rows_that_scale_by_their_own_lengths_share_nothing():
    prompts = [PROMPTS[0], PROMPTS[0][:18]]
    same(generate(DYNAMIC, prompts=prompts), of_each(DYNAMIC, prompts=prompts))
    assert reading.common([PROMPTS[0], PROMPTS[0]]) == 20 and reading.common([PROMPTS[0]]) == 20


def of_each(config, length=None, prompts=PROMPTS):
    """Greedy tokens of each prompt alone, in rows of `length`, or of what it may grow to."""
    return [by_hand(config, [prompt], NEW, length or len(prompt) + NEW)[0] for prompt in prompts]


@pytest.mark.parametrize(
    "config, mesh_config",
    [(DYNAMIC, MeshConfig(data=2, context=2)), *slow((LONGROPE, ONE), (CLEX, MeshConfig(data=2)))],
)
def test_a_scaling_by_length_takes_that_of_each_row(config, mesh_config):
    want = of_each(config)
    same(generate(config, mesh_config), want)
    assert any((a != b).any() for a, b in zip(want, of_each(config, length=21 + NEW), strict=True))


def test_a_length_that_is_given_is_that_of_all_rows():
    same(generate(DYNAMIC, length=40), by_hand(DYNAMIC, PROMPTS, NEW, length=40))


def test_logits_that_are_nan_are_no_tokens():
    mesh, graph, params = setup(MODEL)
    broken = jax.tree.map(lambda x: x * float("nan"), params)
    with jax.set_mesh(mesh), pytest.raises(UserError, match="logits are NaN after 0 new tokens: .* float32"):
        api.generate(graph, broken, PROMPTS, NEW, chunk=8)


def test_prompts_of_other_lengths_compile_nothing_again():
    generate()
    compiled = decode.read._cache_size(), decode.read_one._cache_size()
    generate(prompts=[np.resize(prompt, 19) for prompt in PROMPTS], count=18, length=50)
    assert (decode.read._cache_size(), decode.read_one._cache_size()) == compiled


def test_a_row_ends_with_a_stop_token_and_a_stream_with_the_last_row():
    free = generate()
    stop = int(free[0][3])
    cut = [row[: list(row).index(stop) + 1] if stop in row else row for row in free]
    same(generate(stop=(stop, 31)), [row[: list(row).index(31) + 1] if 31 in row else row for row in cut])
    mesh, graph, params = setup(MODEL)
    with jax.set_mesh(mesh):
        steps = list(api.stream(graph, params, 3 * PROMPTS[:1], NEW, chunk=8, stop=(stop,)))
    np.testing.assert_array_equal(steps, np.repeat(cut[0][:, None], 3, 1))


def test_a_seed_repeats_and_another_differs():
    how = dict(temperature=1.5, top_p=0.95)
    one = generate(key=jax.random.key(1), **how)
    same(generate(key=jax.random.key(1), **how), one)
    assert any((a != b).any() for a, b in zip(generate(key=jax.random.key(2), **how), one, strict=True))
    same(generate(temperature=1e-4), generate())


@pytest.mark.parametrize(
    "prompts, how, message",
    [
        ([], {}, r"prompts=\[\] must hold one"),
        ([[1], []], {}, r"prompts\[1\] is float64\[0\]; it must be a row of token ids"),
        ([[0.5]], {}, r"prompts\[0\] is float64\[1\]"),
        ([[1, 32]], {}, r"prompts\[0\] holds ids from 1 to 32; .* from 0 to 31"),
        ([[1]], {"count": 0}, "max_new_tokens=0 must be at least 1"),
        ([[1]], {"chunk": 0}, "chunk=0 must be at least 1"),
        ([[1]], {"temperature": -1.0}, "temperature=-1.0 must be 0 .* or above"),
        ([[1]], {"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ([[True]], {}, r"prompts\[0\] is bool\[1\]"),
        ([[2**40]], {}, "from 1099511627776 to 1099511627776"),
        ([[1]], {"count": 1.5}, "max_new_tokens=1.5 must be .* in whole numbers"),
        ([[1]], {"top_p": float("nan")}, "top_p=nan must be above 0"),
        ([[1]], {"stop": 3}, r"stop=3 must be a tuple"),
        ([[1]], {"stop": (1.5,)}, r"stop=\(1.5,\) must be a tuple"),
        ([[1]], {"length": 0}, "length=0 must be a whole"),
        ([[1]], {"rope": "yarn"}, "rope='yarn' must be a RopeConfig"),
        ([[1]], {"rope": RopeConfig(scaling="yran")}, "rope.scaling='yran' is not known. Did you mean 'yarn'"),
    ],
)
def test_what_cannot_be_generated(prompts, how, message):
    with pytest.raises(UserError, match=message):
        generate(prompts=prompts, **how)
