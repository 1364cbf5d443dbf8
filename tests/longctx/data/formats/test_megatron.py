"""Megatron's pairs of .idx and .bin, and what makes them none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.longctx.data.formats.helpers import ids, load, message
from tests.longctx.data.formats.writers import MEGATRON_CODES, megatron

DOCUMENTS = [[[1, 2, 3], [4, 257]], [[5, 257]], [], [[6], [7], [8, 257]]]  # sequences of each


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "i8"])
def test_documents_are_joined_of_their_sequences(tmp_path, dtype, backwards):
    path = megatron(tmp_path, DOCUMENTS, dtype, backwards)
    expected = {f"a.idx:{i}": sum(DOCUMENTS[i - 1], []) for i in (1, 2, 4)}
    for source in (path, path.with_suffix(".bin"), tmp_path):
        assert ids(source) == expected
        assert load(source).notes[0].endswith(": 1 empty document")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.lists(st.integers(0, 99), max_size=4), max_size=4), max_size=6).filter(
        lambda documents: any(sum(map(len, document)) > 1 for document in documents)
    ),
    st.booleans(),
    st.sampled_from([*MEGATRON_CODES]),
)
def test_documents_in_are_documents_out(tmp_path_factory, documents, backwards, dtype):
    path = megatron(tmp_path_factory.mktemp("megatron"), documents, dtype, backwards)
    joined = [sum(document, []) for document in documents]
    assert [*ids(path).values()] == [document for document in joined if len(document) > 1]


def patched(at, data):
    return lambda index: index[:at] + data + index[at + len(data) :]


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda index: b"", "it does not begin with"),
        (lambda index: b"x" + index[1:], "it does not begin with"),
        (patched(9, b"\2"), "its version is 2, and 1 is known"),
        (patched(17, b"\7"), "its type of ids is 7; known are 1, 2, 3, 4, 5, 8"),
        (lambda index: index[:-1], "6 sequences and 5 entries take 146 bytes, and it has 145"),
        (lambda index: index + bytes(6), "take 146 bytes, and it has 152"),
        (patched(18, b"\xff" * 8), "18,446,744,073,709,551,615 sequences"),
        (patched(34, b"\xff" * 4), "the length of sequence 0 is below 0"),
        (patched(106, b"\1"), "its documents do not go from sequence 0 to 6 in order"),
        (patched(114, b"\5"), "its documents do not go from sequence 0 to 6 in order"),
        (patched(138, b"\5"), "its documents do not go from sequence 0 to 6 in order"),
    ],
)
def test_an_index_that_is_none(tmp_path, damage, reason):
    path = megatron(tmp_path, DOCUMENTS)
    path.write_bytes(damage(path.read_bytes()))
    text = message(path, bad="skip")
    assert f"{str(path)!r} is not an index of Megatron-LM" in text and reason in text


@pytest.mark.parametrize("data", [b"\xff" * 8, b"\1", b"\x14"], ids=["below 0", "between ids", "beyond the end"])
def test_an_index_of_another_file(tmp_path, data):
    path = megatron(tmp_path, DOCUMENTS)
    path.write_bytes(patched(98, data)(path.read_bytes()))
    text = message(path)
    assert (
        f"{str(path)!r} has sequence 5 at bytes" in text and f"{str(path.with_suffix('.bin'))!r}, which has 22" in text
    )


def test_a_bin_that_is_cut_or_missing(tmp_path):
    path = megatron(tmp_path, DOCUMENTS)
    other = path.with_suffix(".bin")
    other.write_bytes(other.read_bytes()[:-1])
    assert "which has 21: they are no pair, or one of them is not whole" in message(path)
    other.unlink()
    for source in (path, tmp_path):
        assert f"{str(path)!r} has no {str(other)!r} beside it" in message(source)


def test_an_id_beyond_the_vocabulary_is_named_with_its_document(tmp_path):
    path = megatron(tmp_path, [[[1, 2]], [[3], [4, 300]]])
    assert f"document 2 of {str(path)!r} has token 300 at 2 (from 0)" in message(path)
