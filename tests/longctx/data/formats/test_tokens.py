"""Files of token ids: NumPy's, bare ones, llm.c's; cut into documents, checked, and decoded where a text is needed."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.config import DataConfig
from longctx.data import rows, sources, tokenizers
from longctx.data.formats import tokens
from tests.longctx.data import tiny_tokenizers as tiny
from tests.longctx.data.formats.helpers import ids, load, message, note, texts

BOS, EOS = tokenizers.ByteTokenizer.bos, tokenizers.ByteTokenizer.eos
STREAM = [BOS, *b"first", EOS, BOS, *b"second", EOS, EOS, *b"rest"]
DOCUMENTS = [STREAM[:7], STREAM[7:15], STREAM[16:]]


def llm_c(magic, version, count, dtype):
    return np.array([magic, version, count, *[0] * 253], "<i4").tobytes() + np.array(STREAM, dtype).tobytes()


def write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32", "int64", ">i4"])
def test_a_stream_is_cut_behind_each_end(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.array(STREAM, dtype))
    expected = {f"a.npy:{i}": document for i, document in zip((1, 2, 4), DOCUMENTS, strict=True)}
    assert ids(tmp_path) == expected and "1 empty document" in note(tmp_path)
    if dtype != ">i4":
        write(tmp_path / "b.bin", np.array(STREAM, dtype).tobytes())
        assert [*ids(tmp_path / "b.bin", token_dtype=dtype).values()] == DOCUMENTS


@pytest.mark.parametrize("magic, version, dtype", [(20240520, 1, "<u2"), (20240801, 7, "<u4")])
def test_the_header_of_llm_c_says_the_type(tmp_path, magic, version, dtype):
    path = write(tmp_path / "a.bin", llm_c(magic, version, len(STREAM), dtype))
    assert [*ids(path).values()] == DOCUMENTS
    assert "is not whole" in message(write(path, llm_c(magic, version, len(STREAM) + 1, dtype)))
    assert "data.token_dtype=''" in message(write(path, llm_c(magic, version + 1, len(STREAM), dtype)))


def test_rows_are_documents(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1, 2, EOS], [3, EOS, 4]], np.uint16))
    assert ids(tmp_path) == {"a.npy:1": [1, 2, EOS], "a.npy:2": [3, EOS, 4]}
    np.save(tmp_path / "a.npy", np.array([[1, 2, EOS], [3, 999, 4]], np.uint16))
    assert f"row 2 of {str(tmp_path / 'a.npy')!r} has token 999 at 1 (from 0)" in message(tmp_path)


def test_without_an_end_all_is_one_document(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(100, dtype=np.uint8))
    assert ids(tmp_path) == {"a.npy:1": [*range(100)]}
    corpus = load(tmp_path, holdout=0.1)
    (train,), (held_out,) = corpus.train, corpus.held_out
    assert [*train.ids, *held_out.ids] == [*range(100)] and len(held_out.ids) == 10
    assert (train.name, held_out.name) == ("a.npy:1 (start)", "a.npy:1 (end)")
    np.save(tmp_path / "a.npy", np.arange(3))
    assert "a single document of token ids, of 3;" in message(tmp_path, holdout=0.1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 256), min_size=1, max_size=9), min_size=1, max_size=9), st.integers(1, 7))
def test_documents_in_are_documents_out(tmp_path_factory, documents, piece):
    """Wherever the pieces end that the stream is looked through in."""
    path = tmp_path_factory.mktemp("ids") / "a.npy"
    np.save(path, np.concatenate([[*document, EOS] for document in documents]).astype(np.uint16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "PIECE", piece)
        assert [*ids(path).values()] == [[*document, EOS] for document in documents]


@pytest.mark.parametrize("first, at", [(259, 5), (60_000, 2_000_000)])
def test_ids_that_the_tokenizer_does_not_have(tmp_path, first, at):
    stream = np.full(2_100_000, 7, np.uint16)
    stream[[at, at + 1]] = first, 65_535
    np.save(tmp_path / "a.npy", stream)
    text = message(tmp_path, bad="skip")
    assert (
        f"{str(tmp_path / 'a.npy')!r} has token {first} at {at:,} (from 0), and data.tokenizer='bytes' has 259" in text
    )
    np.save(tmp_path / "a.npy", np.array([3, -1]))
    assert "has token -1 at 1 (from 0)" in message(tmp_path)


@pytest.mark.parametrize(
    "array, reason", [(np.ones(3), "float64 [3]"), (np.ones((2, 2, 2), int), "[2, 2, 2]"), (np.array(5), "int64 []")]
)
def test_arrays_that_are_no_ids(tmp_path, array, reason):
    np.save(tmp_path / "a.npy", array)
    assert f"{reason}; token ids are whole numbers" in message(tmp_path)


def test_files_that_are_no_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(1000))
    whole = (tmp_path / "a.npy").read_bytes()
    for data in (whole[:-8], b"no array", b"", whole[:20]):
        assert f"{str(write(tmp_path / 'a.npy', data))!r} is not a whole .npy file" in message(tmp_path)
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    assert "is not a whole .npy file of numbers (" in message(tmp_path)


def test_the_type_of_bare_ids_must_be_said(tmp_path):
    path = write(tmp_path / "a.bin", bytes(9))
    for dtype in ("", "float32", "u2"):
        text = message(path, token_dtype=dtype)
        assert f"data.token_dtype={dtype!r}" in text and repr(str(path)) in text and "'uint16'" in text
    assert "has 9 bytes, no multiple of the 2 of data.token_dtype='uint16'" in message(path, token_dtype="uint16")
    assert "holds no text" in message(write(path, b""), token_dtype="uint16")


def test_bytes_of_ids_are_counted(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((100, 100), np.uint16))
    assert "data.max_bytes=15000" in message(tmp_path, max_bytes=15_000)
    assert load(tmp_path, max_bytes=30_000)


def test_what_is_held_out_has_a_text_and_tasks_that_read_texts_have_all(tmp_path):
    np.save(
        tmp_path / "a.npy", np.array([[BOS, *b"document", 48 + i, EOS] for i in range(9)] + [[BOS] * 11], np.uint16)
    )
    for generated in ((), ("passkey(0.5)",)):
        corpus = load(tmp_path, holdout=0.5, generated=generated)
        assert corpus.train and corpus.held_out
        spaced = [document.text for document in corpus.train + corpus.held_out if document.name == "a.npy:10"]
        assert spaced in ([b" "], [b""])
        for document in (*corpus.held_out, *(corpus.train if generated else ())):
            assert document.text == (bytes(document.ids[1:-1].tolist()) if document.name != "a.npy:10" else b" ")
        assert generated or not any(document.text for document in corpus.train)


def test_rows_hold_the_ids_as_they_are(tmp_path):
    np.save(tmp_path / "a.npy", np.array(STREAM))
    (tmp_path / "b.txt").write_text("a text")
    tokenizer = tokenizers.ByteTokenizer()
    table = rows.tokenize(load(tmp_path).held_out, tokenizer)
    found = [table.ids[a:b].tolist() for a, b in zip(table.starts, table.starts + table.inputs + 1, strict=True)]
    assert found == [*DOCUMENTS, [BOS, *b"a text", EOS]]


def test_the_tokenizer_that_is_given_is_taken(tmp_path):
    path = tmp_path / "tokenizer.json"
    tiny.byte_level().save(str(path))
    np.save(tmp_path / "a.npy", np.arange(20, dtype=np.uint16))
    config = DataConfig(path=str(tmp_path / "a.npy"), holdout=1.0, tokenizer="nowhere")
    tokenizer = tokenizers.ByteTokenizer()
    assert sources.load(config, tokenizer).held_out[0].text == bytes(range(20))
    assert "data.tokenizer='nowhere'" in message(tmp_path / "a.npy", tokenizer="nowhere")


def test_text_needs_no_tokenizer(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps({"text": "a"}))
    assert texts(tmp_path, tokenizer="nowhere") == {"b.json": b"a"}
