import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longctx.data import rows, tokenizers, windows
from longctx.data.document import Document
from longctx.data.packing.best_fit import pack

TOKENIZER = tokenizers.ByteTokenizer()


def packed(texts: list[bytes], capacity: int) -> rows.PackedRows:
    table = rows.tokenize([Document(str(i), text) for i, text in enumerate(texts)], TOKENIZER)
    return rows.PackedRows(table, pack(table.inputs, capacity), TOKENIZER.pad)


def pieces(batch):
    """(row, segment, tokens, targets, positions) of every piece in a batch."""
    for row in range(len(batch["tokens"])):
        for segment in range(1, batch["segments"][row].max() + 1):
            at = batch["segments"][row] == segment
            yield row, segment, *(batch[name][row][at] for name in ("tokens", "targets", "positions"))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=12), st.integers(1, 24))
def test_every_next_token_is_predicted_exactly_once(texts, capacity):
    packing = packed(texts, capacity)
    batch = packing.gather(np.arange(len(packing)))
    found = sorted((tokens.tolist(), targets.tolist()) for *_, tokens, targets, _ in pieces(batch))
    expected = []
    for text in texts:
        ids = [256, *text, 257]
        for start in range(0, len(ids) - 1, capacity):
            end = min(start + capacity, len(ids) - 1)
            expected.append((ids[start:end], ids[start + 1 : end + 1]))
    assert found == sorted(expected)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=12), st.integers(1, 24))
def test_targets_positions_segments_and_padding(texts, capacity):
    packing = packed(texts, capacity)
    batch = packing.gather(np.arange(len(packing)))
    for name, array in batch.items():
        assert array.shape == (len(packing), capacity)
        assert array.dtype == (np.float32 if name == "weights" else np.int32)
    for *_, tokens, targets, positions in pieces(batch):
        np.testing.assert_array_equal(tokens[1:], targets[:-1])
        np.testing.assert_array_equal(positions, np.arange(len(tokens)))
    steps = np.diff(batch["segments"], axis=1)
    padding = batch["segments"] == 0
    assert ((steps >= 0) & (steps <= 1) | padding[:, 1:]).all() and (batch["segments"][:, 0] == 1).all()
    assert (padding[:, :-1] <= padding[:, 1:]).all()  # padding comes last
    np.testing.assert_array_equal(batch["weights"], ~padding)
    assert (batch["tokens"][padding] == 258).all() and (batch["targets"][padding] == 258).all()
    assert (batch["positions"][padding] == 0).all()
    assert batch["weights"].sum() == sum(len(text) + 1 for text in texts)


def test_any_rows_in_any_order_are_those_of_the_whole():
    packing = packed([bytes([i]) * n for i, n in enumerate((5, 30, 9, 14, 2, 21))], 16)
    whole = packing.gather(np.arange(len(packing)))
    chosen = np.array([3, 0, 3, 1])
    for name, array in packing.gather(chosen).items():
        np.testing.assert_array_equal(array, whole[name][chosen])


def test_work_of_rows_is_the_pairs_that_see_each_other():
    packing = packed([bytes([i]) * n for i, n in enumerate((5, 30, 9, 14, 2, 21))], 16)
    batch = packing.gather(np.arange(len(packing)))
    seen = np.where(batch["segments"] > 0, batch["positions"] + 1, 0)
    np.testing.assert_array_equal(packing.work(((None, 1),), np.arange(len(packing))), seen.sum(axis=1))
    both = (2 * seen + 3 * np.minimum(seen, 4)).sum(axis=1)
    chosen = np.array([2, 0, 2])
    np.testing.assert_array_equal(packing.work(((None, 2), (4, 3)), chosen), both[chosen])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 20), st.sampled_from([None, 1, 4]))
def test_work_under_a_window_is_that_of_the_documents_it_cuts(lengths, window, reach):
    packing = packed([bytes([i]) * n for i, n in enumerate(lengths)], 16)
    numbers = np.arange(len(packing))
    batch = windows.cut(packing.gather(numbers), window)
    seen = np.where(batch["segments"] > 0, np.minimum(batch["positions"] + 1, reach or 16), 0)
    np.testing.assert_array_equal(packing.work(((reach, 3),), numbers, window), 3 * seen.sum(axis=1))
    np.testing.assert_array_equal(packing.work(((reach, 3),), numbers, 16), packing.work(((reach, 3),), numbers))


def test_a_text_read_back():
    batch = packed([b"hello"], 8).gather(np.array([0]))
    assert batch["tokens"].tolist() == [[256, *b"hello", 258, 258]]
    assert batch["targets"].tolist() == [[*b"hello", 257, 258, 258]]


def test_the_fingerprint_sees_every_change():
    fingerprints = set()
    for texts in ((b"one",), (b"one", b"two!"), (b"two!", b"one"), (b"onet", b"wo!")):
        table, again = (rows.tokenize([Document("a", text) for text in texts], TOKENIZER) for _ in range(2))
        assert table.fingerprint == again.fingerprint and table.ids.dtype == np.uint16
        fingerprints.add(table.fingerprint)
    assert len(fingerprints) == 4


def test_what_does_not_count_has_no_weight():
    documents = [
        Document("whole", b"abc"),
        Document("parts", "d\u00e9fg".encode(), asked=((1, 3), (4, 5))),  # of bytes: the accented letter, and the last
        Document("ids", ids=np.array([1, 2, 3]), counts=np.array([False, True, False])),
    ]
    table = rows.tokenize(documents, TOKENIZER)
    assert table.names == ["whole", "parts", "ids"]
    counts = [True] * 5 + [False, False, True, True, False, True, True] + [False, True, False]
    np.testing.assert_array_equal(table.counts, counts)
    packing = rows.PackedRows(table, pack(table.inputs, 16), TOKENIZER.pad)
    batch = packing.gather(np.arange(len(packing)))
    assert batch["targets"][batch["weights"] > 0].tolist() == [0xC3, 0xA9, ord("g"), 257, *b"abc", 257, 2]
    chosen = table.chosen(np.array([2, 0]))
    batch = rows.PackedRows(chosen, pack(chosen.inputs, 16), TOKENIZER.pad).gather(np.array([0]))
    assert batch["targets"][batch["weights"] > 0].tolist() == [*b"abc", 257, 2] and list(chosen.names) == [
        "ids",
        "whole",
    ]
    assert len({chosen.fingerprint, table.fingerprint, table.chosen(np.array([0, 2])).fingerprint}) == 3
    everything = rows.TokenTable(table.ids, table.starts, table.inputs)
    assert everything.fingerprint != table.fingerprint


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 24), st.data())
def test_pieces_of_a_group_are_one_document(lengths, capacity, data):
    """Other pieces lie as they do apart; segments count groups, and positions go on within one."""
    table = rows.tokenize([Document(str(i), bytes([i]) * n) for i, n in enumerate(lengths)], TOKENIZER)
    apart = pack(table.inputs, capacity)
    begins = np.array(data.draw(st.lists(st.booleans(), min_size=len(apart.group), max_size=len(apart.group))))
    begins[apart.row_start[:-1]] = True
    made = rows.PackedRows(table, dataclasses.replace(apart, group=7 * np.cumsum(begins)), TOKENIZER.pad)
    chosen = np.array(data.draw(st.lists(st.integers(0, apart.rows - 1), min_size=1, max_size=4)))
    batch, other = (r.gather(chosen) for r in (made, rows.PackedRows(table, apart, TOKENIZER.pad)))
    for name in ("tokens", "targets", "weights"):
        np.testing.assert_array_equal(batch[name], other[name])
    work = np.zeros(len(chosen))
    for number, row in enumerate(chosen):
        segment = position = 0
        segments, positions = np.zeros(capacity, int), np.zeros(capacity, int)
        for piece in range(apart.row_start[row], apart.row_start[row + 1]):
            if begins[piece]:
                segment, position = segment + 1, 0
            for i in range(apart.length[piece]):
                segments[apart.column[piece] + i], positions[apart.column[piece] + i] = segment, position
                position, work[number] = position + 1, work[number] + position + 1
        np.testing.assert_array_equal(batch["segments"][number], segments)
        np.testing.assert_array_equal(batch["positions"][number], positions)
    np.testing.assert_array_equal(made.work(((None, 1),), chosen), work)
