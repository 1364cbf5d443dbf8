"""Batches of evaluation: fixed shapes, nothing lost or mixed up on the way there and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.data import tokenizers
from longctx.data.document import Document
from longctx.data.rows import encoded
from longctx.evals import batches
from longctx.evals.batches import LongDocument, Piece, Prediction

TOKENIZER = tokenizers.ByteTokenizer()
BOS, EOS, PAD = TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.pad


def echo(batch):
    """A predictor whose loss is 1000 * position + target, NaN on padding, and that gets even targets right."""
    losses = batch["positions"] * 1000.0 + batch["targets"]
    return Prediction(np.where(batch["segments"] > 0, losses, np.nan).astype(np.float32), batch["targets"] % 2 == 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=40))
def test_every_prediction_comes_back_to_its_piece(sizes):
    rng = np.random.default_rng(0)
    rows = [[Piece(*rng.integers(0, 256, (2, n)).astype(np.int32)) for n in row] for row in sizes]
    shapes = set()

    def predictor(batch):
        shapes.add(batch["tokens"].shape)
        assert all(batch[name].dtype == np.int32 for name in ("tokens", "targets", "positions", "segments"))
        np.testing.assert_array_equal(batch["weights"] > 0, batch["segments"] > 0)
        return echo(batch)

    results = batches.score(predictor, rows, 1024, PAD)
    most = batches.rows_at(1024)
    assert shapes == {(min(len(rows) - start, most), 1024) for start in range(0, len(rows), most)}
    for row, predictions in zip(rows, results, strict=True):
        for piece, (nll, top) in zip(row, predictions, strict=True):
            np.testing.assert_array_equal(nll, np.arange(len(piece.inputs)) * 1000.0 + piece.targets)
            np.testing.assert_array_equal(top, piece.targets % 2 == 0)


def test_pieces_of_a_row_are_separate_segments():
    seen = {}
    pieces = [Piece(np.arange(3, dtype=np.int32), np.arange(1, 4, dtype=np.int32)) for _ in range(2)]
    batches.score(lambda batch: seen.update(batch) or echo(batch), [pieces], 8, PAD)
    np.testing.assert_array_equal(seen["segments"][0], [1, 1, 1, 2, 2, 2, 0, 0])
    np.testing.assert_array_equal(seen["positions"][0], [0, 1, 2, 0, 1, 2, 0, 0])
    np.testing.assert_array_equal(seen["tokens"][0, -2:], [PAD, PAD])


def test_weights_are_where_a_piece_asks():
    ids = np.arange(5, dtype=np.int32)
    first, second = (Piece(ids, ids + 1, np.array(asked)) for asked in ([-2, -1], [0, 3]))
    weights = batches.batch([[first, Piece(ids, ids), second]], 16, PAD)["weights"]
    np.testing.assert_array_equal(weights, [[0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0]])


@given(st.binary(min_size=1, max_size=30), st.none() | st.tuples(st.integers(0, 30), st.integers(0, 30)))
def test_a_document_of_ids_is_the_document_that_they_were_made_of(text, asked):
    document = Document("a", text, asked=asked and (tuple(sorted(asked)),))
    want = batches.long_document(TOKENIZER, document)
    ids, counts = next(encoded([document], TOKENIZER))
    got = batches.long_document(TOKENIZER, Document("a", b"another text", ids=ids, counts=counts))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_end_that_a_document_of_ids_has_not_is_added_and_does_not_count():
    got = batches.long_document(TOKENIZER, Document("a", ids=np.array([104, 105])))
    assert got.ids.tolist() == [BOS, 104, 105, EOS] and got.text == b"hi" and got.spans.tolist() == [[0, 1], [1, 2]]
    assert got.counts is not None and got.counts.tolist() == [True, True, False]
    counts = np.array([True, False, True])
    got = batches.long_document(TOKENIZER, Document("a", ids=np.array([BOS, 104, 105]), counts=counts))
    assert got.ids.tolist() == [BOS, 104, 105, EOS]
    assert got.counts is not None and got.counts.tolist() == [False, True, False]
    (found,) = batches.long_documents([Document("a", ids=np.array([104, 105]))], TOKENIZER, (3, 4), 1, 0)[3]
    assert found.targets == 3 and not batches.long_documents([Document("a", ids=counts * 1)], TOKENIZER, (9,), 1, 0)[9]


@pytest.mark.parametrize("wrong", ["nll", "top"])
def test_a_predictor_of_another_shape_is_refused(wrong):
    piece = Piece(np.zeros(4, np.int32), np.zeros(4, np.int32))
    with pytest.raises(AssertionError, match="predictor gave"):
        batches.score(lambda batch: echo(batch)._replace(**{wrong: np.zeros((2, 8))}), [[piece]], 8, PAD)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(2, 9000), targets=st.integers(2, 60_000), seed=st.integers(0, 99))
def test_windows_do_not_overlap_and_targets_follow_inputs(length, targets, seed):
    document = LongDocument(np.arange(targets + 1, dtype=np.int32), np.zeros((targets - 1, 2), int), b"")
    if targets < length:
        return
    windows = batches.windows(document, length, -1, np.random.default_rng(seed))
    assert 1 <= len(windows) <= max(1, batches.WINDOW_TOKENS // length)
    for inputs, follow, _ in windows:
        assert len(inputs) == len(follow) == length and inputs[0] == -1
        np.testing.assert_array_equal(inputs[1:], follow[:-1])  # ids are their own positions here
    starts = [window.targets[0] for window in windows]
    assert (np.diff(starts) >= length).all() and starts[0] >= 1 and windows[-1].targets[-1] <= targets


def test_the_same_documents_serve_all_lengths(byte_tokenizer, document):
    documents = [document(n) for n in (50, 3000, 70, 4000, 300, 2500, 90)]
    chosen = batches.long_documents(documents, byte_tokenizer, (64, 1024, 9999), 2, seed=3)
    assert [len(chosen[length]) for length in (64, 1024, 9999)] == [2, 2, 0]
    assert [len(d.text) for d in chosen[64]] == [len(d.text) for d in chosen[1024]]
    ids = chosen[64][0].ids
    assert ids[0] == BOS and ids[-1] == EOS and len(ids) == len(chosen[64][0].text) + 2


def test_mean_and_error():
    assert batches.mean_and_error([]) == (None, None)
    assert batches.mean_and_error([2.0]) == (2.0, None)
    assert batches.mean_and_error([1.0, 3.0]) == (2.0, 1.0)
    assert batches.mean_and_error([1.0, np.nan]) == (None, None)


def test_ratio_and_error():
    assert batches.ratio_and_error([], []) == (None, None) == batches.ratio_and_error([1.0], [0])
    assert batches.ratio_and_error([6.0], [2]) == (3.0, None)
    assert batches.ratio_and_error([1.0, 3.0], [1, 1]) == batches.mean_and_error([1.0, 3.0])
    of_one_loss = batches.ratio_and_error([2.0, 4.0, 6.0], [1, 2, 3])
    assert of_one_loss == (2.0, 0.0)
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 100, (4000, 20))
    sums = rng.normal(counts, np.sqrt(counts))
    ratios, errors = np.array([batches.ratio_and_error(*draw) for draw in zip(sums, counts, strict=True)]).T
    np.testing.assert_allclose(errors.mean(), ratios.std(), rtol=0.1)


def test_a_perplexity_that_is_no_float():
    assert batches.perplexity(0.0) == 1.0 and batches.perplexity(None) is batches.perplexity(1e9) is None


def test_every_byte_is_of_one_token(byte_tokenizer):
    """Of spans that leave out spaces, that overlap, and of which the last ends early."""
    spans = np.array([[1, 3], [4, 6], [4, 6], [6, 7]])
    document = LongDocument(np.arange(6, dtype=np.int32), spans, b"0123456789")
    assert document.bytes.tolist() == [3, 3, 0, 4, 0] and document.of_text.tolist() == [True] * 4 + [False]
    made = batches.long_document(byte_tokenizer, Document("a", b"abc"))
    assert made.counts is None
    parts = batches.long_document(byte_tokenizer, Document("a", b"abc", asked=((1, 2),)))
    assert parts.counts.tolist() == [False, True, False, False] and parts.ids.tolist() == made.ids.tolist()
    assert made.ids.tolist() == [BOS, 97, 98, 99, EOS] and made.bytes.tolist() == [1, 1, 1, 0]
