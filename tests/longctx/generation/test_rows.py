"""Rows that come and go say what each would say alone, and their scores are those of the model without a cache."""

import dataclasses

import jax
import numpy as np
import pytest

from longctx.config import LayerConfig, MeshConfig
from longctx.errors import UserError
from longctx.generation import api
from longctx.generation.request import Sampling
from longctx.generation.rows import TOP, Draw, Rows
from longctx.ragged import common_prefix
from tests.helpers import slow, tolerance
from tests.longctx.generation.helpers import ONE, TINY, setup, uncached

RING = dataclasses.replace(TINY, pattern=(LayerConfig(), LayerConfig(mask="causal & (window(5) | sinks(2))")))
CAPACITY, CHUNK = 48, 16
KEY = np.asarray(jax.random.key_data(jax.random.key(3)))


def ids(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, TINY.vocab_size, count).astype(np.int32)


def read(rows, row, prompt, scored=False):
    """The scores of the whole of a prompt that is read into a row."""
    done, found = 0, []
    while done < len(prompt):
        count, scores = rows.read(row, prompt[done:], scored)
        done += count
        found.append(scores)
    return [np.concatenate(parts) for parts in zip(*found, strict=True)] if scored else None


def written(rows, draws: dict, count: int) -> dict:
    """{row: its next tokens} of rows that are continued together; draws: {row: Sampling}."""
    found = {row: [] for row in draws}
    for step in range(count):
        given = [Draw(draws[row], KEY, step) if row in draws else None for row in range(rows.count)]
        tokens, _ = rows.write(given, [draw is not None and step + 1 < count for draw in given])
        for row in draws:
            found[row].append(int(tokens[row]))
    return found


def alone(config, prompt, count, mesh_config=ONE, **how) -> list[int]:
    mesh, graph, params = setup(config, mesh_config)
    with jax.set_mesh(mesh):
        return api.generate(graph, params, [prompt], count, chunk=CHUNK, key=jax.random.key(3), **how)[0].tolist()


def of(config, count, mesh_config=ONE, **how):
    mesh, graph, params = setup(config, mesh_config)
    with jax.set_mesh(mesh):
        return mesh, Rows(graph, params, count, CAPACITY, CHUNK, **how)


@pytest.mark.slow
@pytest.mark.parametrize("config", [RING, TINY], ids=["ring", "full"])
def test_rows_that_come_and_go(config):
    """Three rows with prompts and draws of their own; one goes on later, while another begins anew."""
    mesh, rows = of(config, 3)
    warm, cut = dict(temperature=0.8), dict(temperature=1.5, top_p=0.7, top_k=9, min_p=0.01)
    prompts = [ids(0, 21), ids(1, 5), ids(2, 11)]
    with jax.set_mesh(mesh):
        for row, prompt in enumerate(prompts):
            read(rows, row, prompt)
        got = written(rows, {0: Sampling(), 1: Sampling(**warm), 2: Sampling(**cut)}, 6)
        for row, how in enumerate(({}, warm, cut)):
            assert got[row] == alone(config, prompts[row], 6, **how), row
        assert rows.held(0).tolist() == [*prompts[0], *got[0][:-1]]
        longer = np.concatenate([rows.held(0), ids(5, 4)])
        rows.begin(1, 1, 0)
        read(rows, 1, prompts[2])
        read(rows, 0, longer[len(rows.held(0)) :])
        got = written(rows, {0: Sampling(), 1: Sampling()}, 5)
        assert got == {0: alone(config, longer, 5), 1: alone(config, prompts[2], 5)}


def test_scores_are_those_of_the_model_without_a_cache():
    mesh, rows = of(TINY, 2)
    prompt = ids(0, 37)
    logits = uncached(TINY, prompt[None], [37])[0].astype(np.float64)
    want = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    with jax.set_mesh(mesh):
        read(rows, 0, ids(4, 9))
        logprobs, top_ids, top_logprobs = read(rows, 1, prompt, scored=True)
        tokens, scores = rows.write([None, Draw(Sampling(), KEY, 0)], [False, False])
    close = dict(rtol=0, atol=tolerance("float32", 256))
    np.testing.assert_allclose(logprobs, want[np.arange(36), prompt[1:]], **close)
    np.testing.assert_allclose(top_logprobs, -np.sort(-want[:36])[:, :TOP], **close)
    np.testing.assert_allclose(np.take_along_axis(want[:36], top_ids, 1), top_logprobs, **close)
    assert tokens[1] == want[-1].argmax()
    np.testing.assert_allclose(scores.logprobs[1], want[-1].max(), **close)
    assert rows.tokens_read == 37 + 9


@pytest.mark.parametrize("config", [RING, *slow(TINY)], ids=["ring", "full"])
def test_a_row_begins_with_what_another_one_has(config):
    mesh, rows = of(config, 2)
    first, other = ids(0, 20), np.concatenate([ids(0, 14), ids(7, 6)])
    with jax.set_mesh(mesh):
        read(rows, 0, first)
        assert common_prefix(rows.held(0), other) == 14 and common_prefix(rows.held(1), other) == 0
        assert rows.gives(0, 20) and rows.gives(0, 14) == (config is TINY)
        kept = 0 if config is RING else 14  # its window has lost what the shorter row would see
        for row in (1, 0):  # a copy, then in place
            rows.begin(row, 0, kept)
            assert rows.held(row).tolist() == other[:kept].tolist()
            before = rows.tokens_read
            read(rows, row, other[kept:])
            assert rows.tokens_read - before == len(other) - kept
            assert written(rows, {row: Sampling()}, 4)[row] == alone(config, other, 4)
            if row:  # the copy has left it what it was
                assert written(rows, {0: Sampling()}, 1)[0] == alone(config, first, 1)


@pytest.mark.slow
def test_on_a_mesh_that_cuts_rows_and_heads():
    mesh_config = MeshConfig(context=2, tensor=2)
    mesh, rows = of(RING, 2, mesh_config)
    prompt = ids(0, 21)
    with jax.set_mesh(mesh):
        read(rows, 1, prompt[:18], scored=True)
        rows.begin(0, 1, 18)
        for row in (0, 1):
            read(rows, row, prompt[18:])
        assert written(rows, {0: Sampling(), 1: Sampling()}, 3) == {
            i: alone(RING, prompt, 3, mesh_config) for i in (0, 1)
        }


def test_a_mesh_that_cuts_the_batch():
    with pytest.raises(UserError, match="mesh.data=2 and mesh.fsdp=1 cut the batch"):
        of(TINY, 2, MeshConfig(data=2))


def test_each_program_is_announced_once():
    said = []
    mesh, rows = of(TINY, 1, announce=said.append)
    with jax.set_mesh(mesh):
        for seed in range(2):
            rows.begin(0, 0, 0)
            read(rows, 0, ids(seed, 5))
            written(rows, {0: Sampling()}, 2)
    assert said == ["reads 16 tokens", "writes a token of 1 rows"]
