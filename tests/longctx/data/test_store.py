"""Tokens on disk: what is written is what is read, and what is damaged is said."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx.data import rows, store, tokenizers
from longctx.data.document import Document, place
from longctx.errors import UserError
from tests.longctx.data import tiny_tokenizers as tiny

TOKENIZER = tokenizers.ByteTokenizer()


def part(documents) -> store.Part:
    table = rows.tokenize(documents, TOKENIZER)
    return store.Part(table.ids, table.starts + table.inputs + 1, list(table.names), table.counts)


def written(folder, *groups) -> store.Store:
    folder.mkdir(exist_ok=True)
    store.write(folder, map(part, groups), TOKENIZER, ["a note"], {"files": 3})
    return store.open_store(folder, TOKENIZER)


texts = st.lists(st.tuples(st.binary(max_size=20), st.booleans()), max_size=6)


@given(st.lists(texts, max_size=4))
def test_what_is_written_is_read(tmp_path_factory, groups):
    """Names may hold anything that a file name may; parts may be empty, and only some may say what counts."""
    name = "\u00fc/{}\udcff:{}".format
    made = [
        [Document(name(i, j), text, asked=((0, 2),) if asked else None) for j, (text, asked) in enumerate(group)]
        for i, group in enumerate(groups)
    ]
    found = written(tmp_path_factory.mktemp("store"), *made)
    everything = [document for group in made for document in group]
    whole = rows.tokenize(everything, TOKENIZER)
    for name in ("ids", "starts", "inputs"):
        np.testing.assert_array_equal(getattr(found.table, name), getattr(whole, name))
    assert found.table.ids.dtype == np.uint16
    assert (found.table.counts is None) == (whole.counts is None)
    if whole.counts is not None:
        np.testing.assert_array_equal(found.table.counts, whole.counts)
    names = [document.name for document in everything]
    assert list(found.table.names) == [found.table.names[i] for i in range(len(names))] == names
    few, most = np.arange(len(names))[::3], np.arange(len(names))[1:]
    for numbers in (few, most):
        assert list(found.table.chosen(numbers).names) == [names[i] for i in numbers]
    assert found.notes == ("a note",) and found.places.tolist() == [place(document.name) for document in everything]


def test_the_fingerprint_sees_what_is_in_it(tmp_path):
    one = written(tmp_path / "a", [Document("a", b"xy"), Document("b", b"z")]).table
    same = written(tmp_path / "b", [Document("a", b"xy")], [Document("b", b"z")]).table
    other = written(tmp_path / "c", [Document("a", b"x"), Document("b", b"yz")]).table
    marked = written(tmp_path / "d", [Document("a", b"xy", asked=((0, 1),)), Document("b", b"z")]).table
    assert one.fingerprint == same.fingerprint
    assert len({one.fingerprint, other.fingerprint, marked.fingerprint}) == 3


def test_a_store_is_whole_or_none(tmp_path):
    def stops():
        yield part([Document("a", b"x")])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write(tmp_path, stops(), TOKENIZER, [], {})
    assert not store.is_store(tmp_path)
    written(tmp_path, [Document("a", b"x")])
    assert store.is_store(tmp_path)


def test_what_does_not_fit_is_said(tmp_path):
    written(tmp_path, [Document("a", b"hello"), Document("b", b"x", asked=())])
    other = tokenizers.load(tiny.write(tmp_path / "other", tiny.byte_level("<s>", "</s>")))
    with pytest.raises(UserError, match="tokens of another tokenizer \\(259 tokens, bos 256, eos 257.*experiments.tok"):
        store.open_store(tmp_path, other)
    for name, bytes_ in ((store.TOKENS, 20), (store.COUNTS, 10)):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-1])
        with pytest.raises(UserError, match=f"{name} has {bytes_ - 1} bytes and should have {bytes_}"):
            store.open_store(tmp_path, TOKENIZER)
        (tmp_path / name).write_bytes(whole)
    np.save(tmp_path / store.ENDS, np.array([7]))
    with pytest.raises(UserError, match="ends.npy is not the file that was written"):
        store.open_store(tmp_path, TOKENIZER)
    content = json.loads((tmp_path / store.STORE).read_text())
    (tmp_path / store.STORE).write_text(json.dumps(content | {"version": 9}))
    with pytest.raises(UserError, match="version 9 is not known; 1 is"):
        store.open_store(tmp_path, TOKENIZER)
