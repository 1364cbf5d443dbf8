import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.meter.lengths import CORPORA, corpus
from longctx.config import DataConfig
from longctx.data import sources
from longctx.data.packing.api import COMPARED, PACKINGS
from longctx.data.packing.best_fit import pack
from longctx.data.packing.decomposition import SHORTEST
from longctx.data.rows import TokenTable
from longctx.ragged import ragged_arange
from tests.helpers import slow

lengths_and_capacity = st.tuples(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 40))


def text_of(lengths, ids=None) -> TokenTable:
    """Made-up documents whose inputs are of the given lengths, in up to seven folders."""
    inputs = np.array(lengths, np.int64)
    ends = np.cumsum(inputs + 1)
    size = int(ends[-1]) if len(ends) else 0
    ids = np.frombuffer(np.random.default_rng(len(inputs)).bytes(size), np.uint8) if ids is None else ids
    return TokenTable(ids, ends - inputs - 1, inputs, tuple(f"{i % 7}/{i}.py" for i in range(len(inputs))))


def made(name: str, lengths, capacity: int, seed: int = 0):
    return PACKINGS[name](text_of(lengths), capacity, np.random.default_rng(seed))


def best_fit_reference(lengths, capacity) -> list[int]:
    """The space left in every row after best-fit-decreasing, written as its definition."""
    left = []
    for length in sorted(lengths, reverse=True):
        fits = [space for space in left if space >= length]
        if fits:
            left[left.index(min(fits))] -= length
        else:
            left.append(capacity - length)
    return left


@pytest.mark.parametrize("name", PACKINGS)
@given(case=lengths_and_capacity, seed=st.integers(0, 3))
def test_every_token_lies_in_exactly_one_place_or_is_left_out(name, case, seed):
    lengths, capacity = case
    packing = made(name, lengths, capacity, seed)
    tokens, places = [set() for _ in lengths], set()
    for row in range(packing.rows):
        pieces = range(packing.row_start[row], packing.row_start[row + 1])
        assert len(pieces), "no row is empty"
        for piece in pieces:
            document, start, length, column = (
                int(getattr(packing, name)[piece]) for name in ("document", "start", "length", "column")
            )
            assert 0 <= column and column + length <= capacity and start + length <= lengths[document]
            for i in range(length):
                assert start + i not in tokens[document] and (row, column + i) not in places
                tokens[document].add(start + i)
                places.add((row, column + i))
    assert sum(map(len, tokens)) + packing.left_out == sum(lengths)
    if packing.rows:
        assert packing.waste == pytest.approx(1 - len(places) / (packing.rows * capacity))
    if name != "decomposition":  # and none of these is nearly another one
        assert packing.left_out == 0
    row = np.repeat(np.arange(packing.rows), np.diff(packing.row_start))
    begins = np.diff(np.stack([row, packing.group]), axis=1, prepend=-1).any(axis=0)
    assert begins.sum() == len(set(packing.group.tolist())), "a group stands together, in one row"


@pytest.mark.parametrize("name", PACKINGS)
def test_rows_are_a_function_of_the_seed(name):
    lengths = np.random.default_rng(0).integers(1, 2000, 50)
    one, again, other = (made(name, lengths, 1024, seed) for seed in (0, 0, 1))
    fields = "document", "start", "length", "column"
    same = lambda a, b: all(np.array_equal(getattr(a, field), getattr(b, field)) for field in fields)
    assert same(one, again) and same(one, other) == (name in ("best_fit", "none", "repository"))


@given(lengths_and_capacity)
def test_concatenated_rows_are_full(case):
    lengths, capacity = case
    packing = made("concat_and_cut", lengths, capacity)
    filled = np.add.reduceat(packing.length, packing.row_start[:-1]) if packing.rows else np.array([])
    assert packing.rows == -(-sum(lengths) // capacity) and (filled[:-1] == capacity).all()
    cuts = len(packing.document) - len(lengths)
    assert cuts <= max(packing.rows - 1, 0), "only where a row ends"


@given(st.lists(st.integers(1, 9000), max_size=20), st.sampled_from([100, 256, 512, 1000, 2048]))
def test_decomposed_pieces_are_the_binary_form_of_a_document(lengths, capacity):
    packing = made("decomposition", lengths, capacity)
    largest = 1 << capacity.bit_length() - 1
    for document, length in enumerate(lengths):
        pieces = sorted(packing.length[packing.document == document].tolist(), reverse=True)
        rest = length % largest
        want = [largest] * (length // largest) + [
            1 << k for k in reversed(range(16)) if rest >> k & 1 and 1 << k >= min(SHORTEST, largest)
        ]
        assert pieces == want
    for start, end in zip(packing.row_start[:-1], packing.row_start[1:], strict=True):
        assert len(set(packing.length[start:end].tolist())) == 1, "a row holds pieces of one length"


@given(lengths_and_capacity)
def test_without_packing_a_row_has_one_piece(case):
    packing = made("none", *case)
    assert packing.rows == len(packing.document) and not packing.column.any()


@given(lengths_and_capacity)
def test_only_documents_longer_than_a_row_are_cut(case):
    lengths, capacity = case
    packing = pack(np.array(lengths, np.int64), capacity)
    pieces = np.bincount(packing.document, minlength=len(lengths))
    assert pieces.tolist() == [-(-length // capacity) for length in lengths]
    assert (packing.start % capacity == 0).all()


@given(lengths_and_capacity)
def test_rows_are_those_of_best_fit_decreasing(case):
    lengths, capacity = case
    packing = pack(np.array(lengths, np.int64), capacity)
    filled = [
        int(packing.length[a:b].sum()) for a, b in zip(packing.row_start[:-1], packing.row_start[1:], strict=True)
    ]
    rests = best_fit_reference([length % capacity for length in lengths if length % capacity], capacity)
    full = sum(length // capacity for length in lengths)
    assert sorted(filled) == sorted([capacity - space for space in rests] + [capacity] * full)


def test_a_perfect_fit_wastes_nothing():
    packing = pack(np.array([3, 5, 6, 2, 8, 16]), 8)
    assert packing.rows == 5 and packing.waste == 0


@pytest.mark.parametrize("name", PACKINGS)
def test_no_documents(name):
    packing = made(name, [], 8)
    assert packing.rows == 0 and packing.waste == 0


@pytest.mark.parametrize("name", PACKINGS)
@pytest.mark.parametrize("lengths, capacity", [([0, 3], 8), ([3], 0)])
def test_lengths_and_capacity_are_positive(name, lengths, capacity):
    with pytest.raises(ValueError, match="at least 1"):
        made(name, lengths, capacity)


def test_the_standard_library_packs_tightly(record_property):
    lengths = np.array([len(document.text) + 1 for document in sources.load(DataConfig()).train])
    for capacity, limit in ((512, 0.001), (2048, 0.001), (8192, 0.002)):
        waste = pack(lengths, capacity).waste
        record_property(f"waste_{capacity}", waste)
        assert waste < limit


@pytest.mark.parametrize("name", sorted(PACKINGS.keys() - COMPARED))
@pytest.mark.parametrize("capacity", [2048, *slow(1 << 20)])
def test_a_hundred_thousand_documents_take_seconds(name, capacity):
    lengths = np.random.default_rng(0).lognormal(7, 1.8, 100_000).astype(np.int64) + 1
    text, start = text_of(lengths, ids=np.zeros(0)), time.process_time()  # none of these looks at a token
    packing = PACKINGS[name](text, capacity, np.random.default_rng(0))
    assert time.process_time() - start < 5
    assert packing.length.sum() + packing.left_out == lengths.sum()
    assert packing.waste < {"none": 1, "decomposition": 0.02}.get(name, 0.01)


@pytest.mark.parametrize("capacity", slow(4096, 131_072))
@pytest.mark.parametrize("kind", CORPORA)
def test_a_million_documents_leave_less_than_a_thousandth_of_padding(kind, capacity):
    documents = corpus(kind, 1_000_000)
    packing = pack(documents, capacity)
    assert packing.length.sum() == documents.sum() and packing.waste < 0.001


@pytest.mark.parametrize("name", slow(*sorted(COMPARED)))
def test_twenty_thousand_documents_are_compared_in_seconds(name):
    lengths = np.random.default_rng(0).lognormal(4, 1, 20_000).astype(np.int64) + 1
    text, start = text_of(lengths), time.perf_counter()
    packing = PACKINGS[name](text, 2048, np.random.default_rng(0))
    assert time.perf_counter() - start < 20
    assert packing.length.sum() + packing.left_out == lengths.sum()
    assert packing.waste < 0.01


def test_ragged_arange():
    assert ragged_arange(np.array([3, 0, 2])).tolist() == [0, 1, 2, 0, 1]
    assert ragged_arange(np.array([], np.int64)).tolist() == []
