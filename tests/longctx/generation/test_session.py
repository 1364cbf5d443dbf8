"""A row that is continued again and again says what it would say were it read anew."""

import dataclasses

import jax
import numpy as np
import pytest

from longctx.config import LayerConfig, MeshConfig, RopeConfig
from longctx.errors import UserError
from longctx.generation import api, decode
from longctx.generation.request import Request
from longctx.generation.session import Session
from tests.helpers import slow
from tests.longctx.generation.helpers import ONE, TINY, setup

RING = dataclasses.replace(TINY, pattern=(LayerConfig(), LayerConfig(mask="causal & (window(5) | sinks(2))")))
DYNAMIC = dataclasses.replace(TINY, layers=1, rope=RopeConfig(scaling="dynamic", factor=2.0, original_length=8))
CAPACITY, CHUNK = 64, 8


def ids(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, TINY.vocab_size, count).tolist()


def anew(config, row, count, mesh_config=ONE, **how) -> list[int]:
    mesh, graph, params = setup(config, mesh_config)
    with jax.set_mesh(mesh):
        return api.generate(graph, params, [np.array(row)], count, chunk=CHUNK, length=CAPACITY, **how)[0].tolist()


@pytest.mark.parametrize("config", [TINY, *slow(RING, DYNAMIC)], ids=["full", "ring", "dynamic"])
def test_turns(config):
    """Going on; going back to where the rows still agree, or to the start; and once more with nothing new."""
    mesh, graph, params = setup(config)
    with jax.set_mesh(mesh):
        session = Session(graph, params, CAPACITY)
        said = lambda row, count=6: list(session.stream(row, Request(max_new_tokens=count, chunk=CHUNK)))
        row = ids(0, 11)
        for turn in range(3):
            answer = said(row)
            assert answer == anew(config, row, 6), turn
            assert session.tokens == row + answer
            row = row + answer + ids(turn, 3)
        back = row[:14] + ids(9, 4)
        assert said(back) == anew(config, back, 6) and session.tokens[:18] == back
        assert said(back) == anew(config, back, 6)
        other = ids(5, 7)
        assert said(other) == anew(config, other, 6)


def test_only_what_is_new_is_read(monkeypatch):
    mesh, graph, params = setup(TINY)
    read, widths = decode.read, []
    monkeypatch.setattr(decode, "read", lambda *given: widths.append(int(given[6]["segments"].sum())) or read(*given))
    with jax.set_mesh(mesh):
        session, row = Session(graph, params, CAPACITY), ids(0, 20)
        answer = list(session.stream(row, Request(max_new_tokens=4, chunk=CHUNK)))
        assert widths == [8, 8, 4]
        list(session.stream(row + answer + ids(1, 3), Request(max_new_tokens=4, chunk=CHUNK)))
    assert widths == [8, 8, 4, 3]


def test_an_answer_that_is_broken_off_stays_in_the_row():
    mesh, graph, params = setup(TINY)
    with jax.set_mesh(mesh):
        session, row = Session(graph, params, CAPACITY), ids(0, 9)
        stream = session.stream(row, Request(max_new_tokens=6, chunk=CHUNK))
        heard = [next(stream) for _ in range(3)]
        stream.close()
        assert session.tokens == row + heard
        longer = row + heard + ids(3, 2)
        assert list(session.stream(longer, Request(max_new_tokens=5, chunk=CHUNK))) == anew(TINY, longer, 5)


@pytest.mark.slow
def test_on_a_mesh_and_to_a_stop_token():
    mesh_config = MeshConfig(data=2, context=2)
    mesh, graph, params = setup(RING, mesh_config)
    row = ids(0, 11)
    free = anew(RING, row, 8)
    with jax.set_mesh(mesh):
        session = Session(graph, params, CAPACITY)
        assert (
            list(session.stream(row, Request(max_new_tokens=8, chunk=CHUNK, stop=(free[3],))))
            == (free[: free.index(free[3]) + 1])
        )
        longer = session.tokens + ids(4, 5)
        assert list(session.stream(longer, Request(max_new_tokens=6, chunk=CHUNK))) == anew(RING, longer, 6)


def test_a_penalty_counts_the_whole_row():
    mesh, graph, params = setup(TINY)
    row, how = ids(0, 11), dict(repetition_penalty=1.7)
    with jax.set_mesh(mesh):
        session = Session(graph, params, CAPACITY)
        got = list(session.stream(row, Request(max_new_tokens=12, chunk=CHUNK, **how)))
    assert got == anew(TINY, row, 12, **how) != anew(TINY, row, 12)


def test_a_row_that_is_full():
    mesh, graph, params = setup(TINY)
    with jax.set_mesh(mesh), pytest.raises(UserError, match="60 tokens and max_new_tokens=5 are more than the 64"):
        next(Session(graph, params, CAPACITY).stream(ids(0, 60), Request(max_new_tokens=5)))
