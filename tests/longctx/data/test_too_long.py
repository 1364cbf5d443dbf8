"""Documents longer than a row: what data.too_long takes out of them, and what it never does."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx.config import Config, DataConfig, StageConfig
from longctx.data import curriculum, pipeline, rows, texts, too_long
from longctx.data.document import Document
from longctx.data.tokenizers import ByteTokenizer
from longctx.data.views import Chained
from longctx.errors import UserError

TOKENIZER = ByteTokenizer()
# of each document runs of (tokens that count or not), at least two tokens in all
marks = st.lists(st.tuples(st.booleans(), st.integers(1, 12)), min_size=1, max_size=6).map(
    lambda runs: np.concatenate([[False, runs[0][0]], *(np.full(size, counts) for counts, size in runs)])
)


def table_of(counts: list[np.ndarray], plain: bool = False) -> rows.TokenTable:
    """A table whose tokens are 0, 1, 2, ..., so that each is known again."""
    ends = np.cumsum([0, *map(len, counts)])
    ids, names = np.arange(ends[-1], dtype=np.uint16), [str(i) for i in range(len(counts))]
    inputs = np.array([len(one) - 1 for one in counts], np.int64)
    return rows.TokenTable(
        ids, ends[:-1], inputs, names, None if plain else np.concatenate([np.zeros(0, bool), *counts])
    )


def documents(table) -> dict[str, list[tuple[int, bool]]]:
    """The (token, whether it counts) of each document, by name and in order."""
    counts = np.ones(len(table.ids), bool) if table.counts is None else table.counts
    return {
        name: list(zip(table.ids[a:b].tolist(), counts[a:b].tolist(), strict=True))
        for name, a, b in zip(table.names, table.starts, table.starts + table.inputs + 1, strict=True)
    }


@pytest.mark.parametrize("name", too_long.TOO_LONG)
@given(st.lists(marks, min_size=1, max_size=6), st.integers(1, 30), st.booleans())
def test_laws(name, counts, capacity, plain):
    table = table_of(counts, plain)
    made, dropped = too_long.TOO_LONG[name](table, capacity)
    before, after = documents(table), documents(made)
    assert list(after) == [document for document in before if document in after]
    assert dropped == (len(before) - len(after), table.inputs.sum() - made.inputs.sum())
    for document, whole in before.items():
        needed = [whole[0], *(pair for pair in whole[1:] if pair[1])]
        if len(whole) <= capacity + 1 or name == "cut":
            assert after[document] == whole
        elif name == "skip" or len(needed) > capacity + 1:
            assert document not in after
        else:
            rest = after[document]
            assert len(rest) == capacity + 1 and set(needed) <= set(rest) <= set(whole) and rest == sorted(rest)
    if len(before) == len(after) and not dropped.tokens:
        assert made is table


def test_the_tokens_of_a_store_stay_on_the_disk(tmp_path):
    """Of the arrays that were there no part is read but what is shortened, and rows are those of arrays in memory."""
    counts = [np.arange(20) > 15, np.zeros(3, bool), np.arange(30) % 7 == 3]
    table = table_of(counts)
    for array in (table.ids, table.counts):
        array.tofile(tmp_path / array.dtype.name)
    mapped = {
        name: np.memmap(tmp_path / array.dtype.name, array.dtype, "r")
        for name, array in (("ids", table.ids), ("counts", table.counts))
    }
    stored = dataclasses.replace(table, **mapped, checksum=7)
    for name in ("middle", "start"):
        made, _ = too_long.TOO_LONG[name](stored, 9)
        assert isinstance(made.ids, Chained) and made.ids._first is mapped["ids"]
        assert isinstance(made.counts, Chained) and made.counts._first is mapped["counts"]
        assert documents(made) == documents(too_long.TOO_LONG[name](table, 9)[0])
        assert (made.ids.dtype, made.counts.dtype) == (np.uint16, bool)


@given(st.lists(st.integers(0, 9), max_size=6), st.lists(st.integers(0, 9), max_size=6), st.data())
def test_chained_arrays_are_one_behind_the_other(first, second, data):
    one, other = np.array(first, np.uint8), np.array(second, np.uint8)
    whole, chained = np.concatenate([one, other]), Chained(one, other)
    cut = data.draw(st.slices(len(whole)))
    np.testing.assert_array_equal(chained[cut], whole[cut])
    assert len(chained) == len(whole) and chained.dtype == np.uint8
    if len(whole):
        places = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=9)), np.int64)
        np.testing.assert_array_equal(chained[places], whole[places])


def test_what_is_taken_out():
    text = "Qqqqqqqq-AA-cccccc-BB"  # capital letters count, the first token stays
    table = table_of([np.array([letter.isupper() and i > 0 for i, letter in enumerate(text)]), np.zeros(3, bool)])

    def left(name, capacity):
        found = documents(too_long.TOO_LONG[name](table, capacity)[0])
        assert len(found["1"]) == 3
        return "".join(text[token] for token, _ in found["0"])

    assert left("middle", 17) == "Qqqqq-AA-cccccc-BB"  # 3 of the 8 behind Q
    assert left("middle", 10) == "QAA-cccc-BB"
    assert left("middle", 4) == left("start", 4) == "QAABB"
    assert left("start", 17) == "Qqqqq-AA-cccccc-BB" and left("start", 9) == "QAAcccc-BB"
    for name in ("middle", "start"):
        made, dropped = too_long.TOO_LONG[name](table, 3)
        assert list(made.names) == ["1"] and dropped == (1, len(text) - 1)


def test_a_table_that_is_changed_is_known_as_another():
    counts = [np.arange(20) > 15, np.zeros(3, bool)]
    made = {
        too_long.TOO_LONG[name](table_of(counts), n)[0].fingerprint for name in ("middle", "start") for n in (9, 10)
    }
    skipped = {too_long.skip(table_of(counts), n)[0].fingerprint for n in (9, 30)}
    again = too_long.middle(table_of(counts), 9)[0].fingerprint
    assert len(made | skipped) == 6 and again in made


def rows_of(name: str, seq_len: int):
    stage = curriculum.plan(Config(batch_tokens=seq_len, stages=(StageConfig(seq_len=seq_len, steps=1),)))[0]
    found = [Document("long", b"q" * 90 + b"ANSWER", asked=((90, 96),)), Document("short", b"qA", asked=((1, 2),))]
    table = rows.tokenize(found, TOKENIZER)
    text = texts.Texts({texts.TEXT: texts.Text(found, table, "best_fit")})
    return table, pipeline.stage_rows(text, TOKENIZER, stage, DataConfig(too_long=name))


@pytest.mark.parametrize("name", too_long.TOO_LONG)
def test_rows_of_a_stage_hold_what_is_left(name):
    table, made = rows_of(name, 32)
    batch = made.gather(np.arange(len(made)))
    assert (batch["segments"] > 0).sum() + made.left_out == table.inputs.sum()
    counted = [TOKENIZER.decode(batch["targets"][row][batch["weights"][row] > 0]) for row in range(len(made))]
    assert sorted("".join(counted)) == sorted("A" if name == "skip" else "AANSWER")
    if name in ("middle", "start"):  # an answer sees what comes before it
        assert made.left_out == 97 - 32 and batch["positions"].max() == 31


def test_names_that_are_unknown_and_rows_that_are_too_short():
    stage = curriculum.plan(Config(batch_tokens=32, stages=(StageConfig(seq_len=32, steps=1),)))
    with pytest.raises(UserError, match="data.too_long='midle' is not known. Did you mean 'middle'"):
        pipeline.check(DataConfig(too_long="midle"), stage, TOKENIZER)
    with pytest.raises(
        UserError, match=r"data.too_long='skip' leaves out all 2 .*stages\[0\].seq_len=2. A longer one"
    ) as e:
        rows_of("skip", 2)
    assert "\n" not in str(e.value)
