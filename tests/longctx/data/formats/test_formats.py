"""Every format gives the documents that were written, and says what cannot be read."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.data.formats import api
from tests.longctx.data.formats.helpers import load, message, note, texts
from tests.longctx.data.formats.writers import WRITERS, write

WORDS = ["first", "naïve \U0001f600", '{"text": "in text"}', "two\nlines", *(f"document {i}" for i in range(8))]
TEXTS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1).map("x".__add__), min_size=2, max_size=12)


@pytest.mark.parametrize("name", WRITERS)
def test_documents_are_those_that_were_written_with_their_numbers(tmp_path, name):
    path = write(tmp_path, name, WORDS)
    base = path.name
    expected = {f"{base}:{i}": text.encode() for i, text in enumerate(WORDS, start=1)}
    found = texts(path)
    assert found == expected and list(found) == list(expected)
    folder = texts(path.parent)  # nothing beside it is a document, and nothing is left out
    assert folder == expected and not load(path.parent).notes


@settings(max_examples=15, deadline=None)
@given(TEXTS)
def test_formats_agree(written):
    with tempfile.TemporaryDirectory() as folder:
        for name in WRITERS:
            assert [*texts(write(Path(folder), name, written)).values()] == [text.encode() for text in written], name


@pytest.mark.parametrize("name", WRITERS)
def test_bytes_are_counted_before_they_are_too_many(tmp_path, name):
    path = write(tmp_path, name, ["x" * 30_000] * 40)
    assert "can be read: data.max_bytes=200000" in message(path, max_bytes=200_000)


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.json", "a.parquet", "stream.arrow", "file.arrow", "a.feather"])
def test_a_bad_record_is_named_with_its_number(tmp_path, name):
    path = write(tmp_path, name, ["good", "good", "good"])
    kind = api.FORMATS[api.extension(name)]
    text = message(path, text_field="id")
    assert f"{kind.unit} 1 of {str(path)!r} has no text in data.text_field='id'" in text


@pytest.mark.parametrize("extension", api.TEXTS)
def test_code_is_one_text_a_file(tmp_path, extension):
    for name in (f"a{extension}", f"B{extension.upper()}"):
        (tmp_path / name).write_text("one\ntext")
    assert texts(tmp_path) == {f"a{extension}": b"one\ntext", f"B{extension.upper()}": b"one\ntext"}


def test_notebooks_and_unknown_files_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.ipynb").write_text("{}")
    assert "1 file (1 .ipynb)" in note(tmp_path)
    text = message(tmp_path / "b.ipynb")
    assert all(known in text for known in api.FORMATS) and ".gz or .zst" in text


def test_what_is_read_at_several_places_is_not_read_compressed(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.parquet.gz").write_bytes(b"")
    assert "1 file (1 .parquet), first 'b.parquet.gz'" in message(tmp_path)
    assert "1 file (1 .parquet)" in note(tmp_path, ignore=(".parquet",))
