"""Mosaic's data sets: texts and ids in shards, and what is wrong with an index or a shard."""

import json

import numpy as np
import pytest
import zstandard

from longctx.data.formats.mds import CODES
from tests.longctx.data.formats import writers
from tests.longctx.data.formats.helpers import ids, load, message, note, texts

DOCUMENTS = [[1, 2, 3, 258], [4, 5], [6, 258], [*range(200)], [7, 8]]


def array(values, dtype, with_type=True, with_shape=True) -> bytes:
    """The bytes of an array of one or two dimensions."""
    values = np.array(values, f"<{np.dtype(dtype).str[1:]}")
    code = next(code for code, name in CODES.items() if name == dtype)
    width = 0 if max(values.shape) < 256 else 1
    shape = bytes([values.ndim << 2 | width]) + np.array(values.shape, ("<u1", "<u2")[width]).tobytes()
    return bytes([code]) * with_type + shape * with_shape + values.tobytes()


def write(folder, columns, samples, **kwargs):
    path = folder / "index.json"
    writers.mds(path, columns, samples, **kwargs)
    return path


def of_ids(folder, documents=DOCUMENTS, **kwargs):
    return write(folder, {"input_ids": "ndarray:uint32"}, [[array(d, "uint32", False)] for d in documents], **kwargs)


@pytest.mark.parametrize("name", ["input_ids", "tokens"])
@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32", "int64"])
def test_every_encoding_of_ids(tmp_path, name, dtype):
    expected = {f"index.json:{i}": document for i, document in enumerate(DOCUMENTS, start=1)}
    for encoding, make in {
        "ndarray": lambda d: array(d, dtype),
        f"ndarray:{dtype}": lambda d: array(d, dtype, False),
        "bytes": lambda d: np.array(d, dtype).tobytes(),
    }.items():
        path = write(tmp_path, {"id": "int", name: encoding}, [[bytes(8), make(d)] for d in DOCUMENTS], sizes=[8, None])
        assert ids(path, token_dtype=dtype) == ids(tmp_path, token_dtype=dtype) == expected
    square = np.arange(8).reshape(4, 2)
    path = write(
        tmp_path,
        {name: f"ndarray:{dtype}:2"},
        [[array(d, dtype, False, False)] for d in square],
        sizes=[2 * np.dtype(dtype).itemsize],
    )
    assert [*ids(path).values()] == square.tolist()


def test_long_arrays_have_wider_shapes(tmp_path):
    long = (np.arange(1000) % 250).tolist()
    path = write(tmp_path, {"input_ids": "ndarray"}, [[array(long, "uint16")], [array([[1, 2], [3, 4]], "int64")]])
    assert [*ids(path).values()] == [long, [1, 2, 3, 4]]


def test_a_mask_says_what_counts(tmp_path):
    samples = [[array(d, "uint32", False), array([i % 2 for i in range(len(d))], "uint8", False)] for d in DOCUMENTS]
    samples[1][1] = array([1], "uint8", False)
    path = write(tmp_path, {"input_ids": "ndarray:uint32", "mask": "ndarray:uint8"}, samples)
    assert f"item 2 of {str(path)!r} has 2 ids and 1 values in the column 'mask'" in message(path)
    found = load(path, bad="skip").held_out
    assert [document.counts.tolist() for document in found][0] == [False, True, False, True] and len(found) == 4
    assert found[0].counts.dtype == bool and found[0].ids.dtype == np.uint16


def test_text_is_taken_before_ids(tmp_path):
    samples = [[array([1, 2], "uint32", False), b"a text"], [array([3, 4], "uint32", False), b"\xff"]]
    path = write(tmp_path, {"tokens": "ndarray:uint32", "text": "str"}, samples)
    assert texts(path, bad="skip") == {"index.json:1": b"a text"}
    assert "item 2 of" in message(path) and "has no str in the column 'text'" in message(path)
    assert [*ids(path, text_field="body").values()] == [[1, 2], [3, 4]]
    assert "has no column 'text' or 'input_ids' or 'tokens'; the columns there: 'body'" in message(
        write(tmp_path, {"body": "str"}, [[b"a"]])
    )


def test_the_numbers_go_through_all_shards_and_zipped_ones_are_read(tmp_path):
    path = of_ids(tmp_path, [[i, i] for i in range(10)], per_shard=3, compressed="zstd")
    assert ids(path) == {f"index.json:{i + 1}": [i, i] for i in range(10)}
    assert not load(tmp_path).notes
    whole = zstandard.decompress((tmp_path / "shard.00001.mds.zstd").read_bytes())
    (tmp_path / "shard.00001.mds").write_bytes(whole)  # both, as the library keeps them where it is asked to
    assert len(ids(tmp_path)) == 10


def test_an_index_of_indices_is_no_second_copy(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        of_ids(tmp_path / name, [[1, 2], [3, 4]])
    merged = {"version": 2, "shards": []}
    for name in "ab":
        for shard in json.loads((tmp_path / name / "index.json").read_text())["shards"]:
            merged["shards"].append({**shard, "raw_data": {"basename": f"{name}/{shard['raw_data']['basename']}"}})
    (tmp_path / "index.json").write_text(json.dumps(merged))
    assert [*ids(tmp_path)] == ["a/index.json:1", "a/index.json:2", "b/index.json:1", "b/index.json:2"]
    assert "1 file (1 .json)" in note(tmp_path)
    for name in "ab":
        (tmp_path / name / "index.json").unlink()
    assert [*ids(tmp_path)] == [f"index.json:{i}" for i in range(1, 5)] and not load(tmp_path).notes


def test_another_index_json_is_json(tmp_path):
    (tmp_path / "index.json").write_text(json.dumps({"text": "a"}))
    assert texts(tmp_path) == {"index.json": b"a"}
    (tmp_path / "index.json").write_text("no json")
    assert "is not JSON" in message(tmp_path)


def test_a_shard_alone(tmp_path):
    of_ids(tmp_path).unlink()
    text = message(tmp_path)
    assert "shard.00000.mds' is a shard of a data set, which is read by its index.json" in text


def changed(**fields):
    def change(folder):
        index = json.loads((folder / "index.json").read_text())
        index["shards"][1].update(fields)
        index["shards"][1] = {key: value for key, value in index["shards"][1].items() if value != "gone"}
        (folder / "index.json").write_text(json.dumps(index))

    return change


def shard(change):
    def apply(folder):
        path = folder / "shard.00001.mds"
        path.write_bytes(change(path.read_bytes()))

    return apply


def no_shard(folder):
    (folder / "shard.00001.mds").unlink()


@pytest.mark.parametrize(
    "change, reason",
    [
        (changed(format="json"), "has shard 1 of format 'json', version 2; 'mds', version 2, is read"),
        (changed(version=3), "of format 'mds', version 3"),
        (changed(samples="gone"), "does not describe shard 1 as an index of Mosaic's does (KeyError: 'samples')"),
        (changed(column_sizes=[]), "does not describe shard 1"),
        (changed(raw_data="x"), "does not describe shard 1"),
        (changed(samples=9), "is not a whole shard: it has 1 samples, and the index says 9"),
        (changed(column_encodings=["pkl"]), "has the column 'input_ids' in 'pkl'; ids are read in"),
        (changed(column_sizes=[4]), "is not a whole shard: sample 1 is cut"),
        (no_shard, "shard.00001.mds', which is not there"),
        (shard(lambda data: data[:-1]), "is not a whole shard: it ends 1 bytes too early"),
        (shard(lambda data: b""), "is not a whole shard: it ends 4 bytes too early"),
        (shard(lambda data: data + b"x"), "it goes on behind its last sample"),
        (shard(lambda data: b"\xff" * 4 + data[4:]), "is not a whole shard: it ends"),
        (shard(lambda data: data[:4] + b"\1" + data[5:]), "its samples do not lie one after another"),
        (shard(lambda data: data[:8] + b"\1\0" + data[10:]), "its samples do not lie one after another"),
        (shard(lambda data: data[:-13] + b"\1" + data[-12:]), "sample 1 is cut"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, reason):
    path = of_ids(tmp_path)
    change(tmp_path)
    text = message(path, bad="skip")
    assert str(tmp_path) in text and reason in text


@pytest.mark.parametrize(
    "compressed, change, reason",
    [
        ("br", lambda data: data, "whose compression is not known; zstd and gzip are"),
        ("zstd", lambda data: data[:-5], "shard.00001.mds.zstd' is not a whole shard"),
        ("gz", lambda data: data[:-5], "shard.00001.mds.gz' is not a whole shard"),
        ("zstd", None, "shard.00001.mds.zstd', of which neither is there"),
    ],
)
def test_what_is_wrong_with_a_zipped_shard(tmp_path, compressed, change, reason):
    path = of_ids(tmp_path, compressed=compressed)
    other = tmp_path / f"shard.00001.mds.{compressed}"
    other.write_bytes(change(other.read_bytes())) if change else other.unlink()
    assert reason in message(path)


def test_arrays_that_are_no_ids_are_bad(tmp_path):
    cells = [b"\x22\5\1" + bytes(4), b"", bytes([16, 5, 3]) + bytes(5), array([1, 2], "uint16")]
    path = write(tmp_path, {"input_ids": "ndarray"}, [[cell] for cell in cells])
    assert [*ids(path, bad="skip").values()] == [[1, 2]]
    assert "item 1 of" in message(path) and "has no whole numbers in the column 'input_ids'" in message(path)
    assert "item 3 of 'index.json' has 4 bytes in the column 'input_ids', not 3 numbers of 2" in note(path)


def test_ids_beyond_the_vocabulary_and_bytes_without_a_type(tmp_path):
    text = message(of_ids(tmp_path, [[1, 2], [3, 4, 300]]))
    assert f"sample 2 of {str(tmp_path / 'index.json')!r} has token 300 at 2 (from 0)" in text
    assert "data.token_dtype=''" in message(write(tmp_path, {"tokens": "bytes"}, [[bytes(8)]]))


def test_ranges_of_a_sample_are_documents(tmp_path):
    """ProLong's samples hold several documents each; what is in no range is padding."""
    columns = {"input_ids": "ndarray:uint32", "indices": "ndarray", "mask": "ndarray:uint8"}

    def write_ranges(*ranges):
        samples = [
            [array([1, 2, 3, 4, 5, 6], "uint32", False), array(one, "int64"), array([0, 1, 0, 1, 1, 1], "uint8", False)]
            for one in ranges
        ]
        return write(tmp_path, columns, samples)

    path = write_ranges([[0, 2], [2, 5]], [[0, 6]])
    assert ids(path) == {"index.json:1:1": [1, 2], "index.json:1:2": [3, 4, 5], "index.json:2:1": [1, 2, 3, 4, 5, 6]}
    assert [one.counts.tolist() for one in load(path).held_out][:2] == [[False, True], [False, True, True]]
    for wrong in ([[0, 7]], [[2, 0]], [[0, 3], [2, 4]], [0, 2, 3], [[-1, 2]]):
        said = message(write_ranges(wrong))
        assert "item 1 of" in said and "no ranges of its 6 ids, one behind the other, in the column 'indices'" in said
