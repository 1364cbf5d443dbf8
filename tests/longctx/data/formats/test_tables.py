"""Parquet and Arrow: only what the form reads, a few rows at a time, and broken files."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from longctx.data.formats import tables
from tests.longctx.data.formats.helpers import load, message, note, texts
from tests.longctx.data.formats.writers import WRITERS, write

NAMES = ("a.parquet", "stream.arrow", "file.arrow", "a.feather")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_column_is_one_error_with_those_there(tmp_path, name):
    path = write(tmp_path, name, ["a", "b"])
    for bad in ("stop", "skip"):
        text = message(path, text_field="body", bad=bad)
        assert f"{str(path)!r} has no column 'body' or 'input_ids'; the columns there: 'id', 'text'" in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"no table" * 9, lambda d: b""])
def test_a_broken_file_is_bad(tmp_path, name, damage):
    path = write(tmp_path, name, [f"document {i}" for i in range(300)])
    (tmp_path / "b.txt").write_text("sound")
    path.write_bytes(damage(path.read_bytes()))
    text = message(path)
    assert f"{str(path)!r} is not a whole " in text and "data.bad='skip'" in text
    assert texts(tmp_path, bad="skip")["b.txt"] == b"sound" and "1 bad document" in note(tmp_path)


def test_rows_of_a_stream_before_its_break_are_documents(tmp_path):
    path = write(tmp_path, "stream.arrow", [f"document {i}" for i in range(300)])
    path.write_bytes(path.read_bytes()[:-3000])
    assert texts(path, bad="skip")["stream.arrow:1"] == b"document 0"


def test_a_row_without_text_is_bad_and_the_others_are_read(tmp_path):
    broken = pa.array([b"a", b"\xff", None, b"d", b""]).cast(pa.binary()).view(pa.string())
    pa.parquet.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    assert texts(tmp_path, bad="skip") == {"a.parquet:1": b"a", "a.parquet:4": b"d"}
    said = note(tmp_path)
    assert "1 empty document, 2 bad documents" in said
    assert "row 2 of 'a.parquet' has text that is not UTF-8 at byte 0" in said and "row 3 of 'a.parquet' has no" in said


@pytest.mark.parametrize("name", ["a.parquet", "a.feather"])
def test_rows_of_ids_are_documents(tmp_path, name):
    """Whole numbers of any type are taken as they are, without those that a mask has 0 for; nothing else is."""
    rows = [[1, 2, 258], [3], [4, 5], None]
    masks = [[0, 1, 1], [1], None, None]

    def written(rows, masks, kind):
        columns = {"input_ids": pa.array(rows, pa.list_(kind)), "mask": pa.array(masks, pa.list_(pa.uint8()))}
        table = pa.table(columns | {"labels": pa.array([1] * len(rows))})
        write_table = pa.parquet.write_table if name.endswith("parquet") else pa.feather.write_feather
        write_table(table, str(tmp_path / name))

    for kind in (pa.int64(), pa.int32(), pa.uint16()):
        written(rows, masks, kind)
        found = load(tmp_path, bad="skip").held_out
        assert {one.name: one.ids.tolist() for one in found} == {f"{name}:1": [1, 2, 258], f"{name}:3": [4, 5]}
        assert found[0].counts.tolist() == [False, True, True] and found[1].counts is None
    assert "1 empty document, 1 bad document (row 4 of" in note(tmp_path) and "no list of" in note(tmp_path)
    written([[1, 2], [3, 4, 259, -1]], [None, None], pa.int64())
    said = message(tmp_path, bad="skip")
    assert f"row 2 of {str(tmp_path / name)!r} has token 259 at 2 (from 0), and data.tokenizer='bytes' has 259" in said
    written([[1, 2]], [[1]], pa.int64())
    assert "row 1 of" in message(tmp_path) and "has 2 ids and 1 values in 'mask'" in message(tmp_path)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_type_of_text(tmp_path, kind):
    column = pa.array(["a", "b", "a"], pa.string())
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    table = pa.table({"text": column})
    pa.feather.write_feather(table, str(tmp_path / "a.feather"), compression="zstd")
    if kind != pa.string_view():  # which Parquet takes from pyarrow 18 on
        pa.parquet.write_table(table, tmp_path / "b.parquet", compression="zstd")
    assert {*texts(tmp_path).values()} == {b"a", b"b"} and texts(tmp_path)["a.feather:3"] == b"a"


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_other_columns_are_neither_read_nor_counted(tmp_path, kind):
    rng = np.random.default_rng(0)
    table = pa.table({"text": ["a" * 100] * 300, "picture": [rng.bytes(20_000) for _ in range(300)]})
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pa.parquet.write_table(table, path, row_group_size=50, use_dictionary=False)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=50)
    assert path.stat().st_size > 5_000_000
    before = pa.total_allocated_bytes()
    assert len(load(path, max_bytes=60_000).held_out) == 300
    assert pa.total_allocated_bytes() - before < 100_000


def test_a_table_is_never_whole_in_memory(tmp_path):
    path = tmp_path / "a.parquet"
    rng = np.random.default_rng(0)
    texts_ = ["".join(map(chr, rng.integers(97, 123, 2000))) for _ in range(3000)]
    pa.parquet.write_table(pa.table({"text": texts_}), path, row_group_size=3000, use_dictionary=False)
    from longctx.config import DataConfig
    from longctx.data.formats import api
    from longctx.data.formats.format import Reading
    from longctx.data.records.api import form_of

    pool, most = pa.default_memory_pool(), 0
    before = pool.bytes_allocated()
    tracemalloc.start()
    for part in api.parts(str(path), Reading(form_of(DataConfig()), "", lambda: None), lambda size: None):
        assert not part.bad
        most = max(most, pool.bytes_allocated() - before)
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4_000_000 and python < 4_000_000 < path.stat().st_size
    assert tables.ROWS < 3000


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    WRITERS["a.jsonl"](tmp_path / "a.parquet", ["a"])
    assert "a.parquet' needs pyarrow, which is not installed: pip install 'longctx[data]'" in message(tmp_path)
