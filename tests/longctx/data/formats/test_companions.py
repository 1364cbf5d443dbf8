"""Files beside documents that are none, as the datasets library leaves them."""

import json

import pytest

from longctx.data.formats.companions import companions
from tests.longctx.data.formats.helpers import load, message, note, texts
from tests.longctx.data.formats.writers import arrow_stream

WORDS = [f"document {i}" for i in range(20)]


@pytest.fixture
def saved(tmp_path):
    """A folder as DatasetDict.save_to_disk of the datasets library writes it."""
    for split, words, shards in (("train", WORDS, 3), ("test", [WORDS[3], WORDS[5]], 1)):
        folder = tmp_path / "set" / split
        folder.mkdir(parents=True)
        size = -(-len(words) // shards)
        names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
        for i, name in enumerate(names):
            arrow_stream(folder / name, words[i * size : (i + 1) * size])
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
        (folder / "dataset_info.json").write_text("{}")
    (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return tmp_path / "set"


def test_a_folder_of_save_to_disk(saved):
    found = texts(saved / "train")
    assert [*found.values()] == [text.encode() for text in WORDS]
    assert [*found][0] == "data-00000-of-00003.arrow:1"
    assert "2 files (2 .json)" in note(saved / "train")
    both = texts(saved)
    assert sorted(both.values()) == sorted(text.encode() for text in [*WORDS, WORDS[3], WORDS[5]])
    assert "5 files (5 .json)" in note(saved)


def test_caches_beside_them_are_no_second_copy(saved):
    data = next((saved / "train").glob("data-*.arrow"))
    (saved / "train" / "cache-0123.arrow").write_bytes(data.read_bytes())
    assert len(texts(saved / "train")) == 20
    assert "3 files (2 .json, 1 .arrow)" in note(saved / "train")
    assert len(texts(saved / "train" / "cache-0123.arrow")) in (6, 7)  # what is named is read


def test_json_without_arrow_beside_it_is_data(tmp_path):
    (tmp_path / "state.json").write_text(json.dumps({"text": "a"}))
    assert texts(tmp_path) == {"state.json": b"a"}
    (tmp_path / "other.json").write_text("{}")
    assert "'" + str(tmp_path / "other.json") in message(tmp_path) and load(tmp_path, bad="skip").held_out


def test_what_is_read_together():
    together, describing = companions(
        [
            "a/x.bin",
            "a/x.idx",
            "b/x.bin",
            "b/y.idx",
            "c/index.json",
            "c/deep/s.mds",
            "c/deep/s.mds.zstd",
            "d/s.mds",
            "e.mds.txt",
        ]
        + ["dataset_dict.json", "x/state.json"]
    )
    assert together == {"a/x.bin", "c/deep/s.mds", "c/deep/s.mds.zstd"} and not describing
