"""Files at addresses: listed and read through fsspec, here from its memory."""

import gzip
import json

import fsspec
import numpy as np
import pytest

from longctx.data import remote
from longctx.errors import UserError
from tests.longctx.data.formats import writers
from tests.longctx.data.formats.helpers import ids, load, message, note, texts
from tests.longctx.data.formats.writers import megatron


@pytest.fixture
def bucket():
    """A function (name, bytes) that writes into an empty memory://bucket."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield lambda name, data: system.pipe(f"/bucket/{name}", data)
    system.store.clear()


def test_a_folder_is_read_as_on_this_machine(bucket, tmp_path):
    files = {
        "a.txt": b"one",
        "deep/b.md.gz": gzip.compress(b"two"),
        "deep/c.jsonl": json.dumps({"text": "three"}).encode(),
        ".hidden/no.txt": b"no",
        "deep/__pycache__/no.py": b"no",
        "d.png": b"",
        ".e.txt": b"",
    }
    for name, data in files.items():
        bucket(name, data)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    expected = {"a.txt": b"one", "deep/b.md.gz": b"two", "deep/c.jsonl:1": b"three"}
    assert texts("memory://bucket") == texts("memory://bucket/") == texts(tmp_path) == expected
    assert note("memory://bucket").partition(": ")[2] == note(tmp_path).partition(": ")[2] != ""
    assert texts("memory://bucket/deep/c.jsonl") == {"c.jsonl:1": b"three"}
    assert load("memory://bucket").root == "memory://bucket"


@pytest.mark.parametrize("name", [name for name in writers.WRITERS if "array" not in name])
def test_formats(bucket, tmp_path, name):
    path = writers.write(tmp_path, name, ["first", "second", "third"] * 3)
    for file in path.parent.iterdir():
        bucket(file.name, file.read_bytes())
    assert texts("memory://bucket") == texts(path)


def test_token_files(bucket, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(9))
    bucket("a.npy", (tmp_path / "a.npy").read_bytes())
    for file in megatron(tmp_path, [[[1, 2]], [[3], [4]]], name="c"), tmp_path / "c.bin":
        bucket(file.name, file.read_bytes())
    bucket("b.bin", np.arange(9, dtype="<u2").tobytes())
    pairs = {"c.idx:1": [1, 2], "c.idx:2": [3, 4]}
    assert ids("memory://bucket", token_dtype="uint16") == {"a.npy:1": [*range(9)], "b.bin:1": [*range(9)], **pairs}


def test_what_cannot_be_read(bucket):
    assert "data.path='memory://bucket' does not exist" in message("memory://bucket")
    bucket("a.array_record", b"")
    assert "'memory://bucket/a.array_record' is an ArrayRecord, which is read from this machine only" in message(
        "memory://bucket"
    )
    bucket("a.array_record.txt", b"text")
    assert "holds 0.0 MB in 1 file" in message("memory://bucket/a.array_record.txt", max_bytes=1)


@pytest.mark.parametrize("path", ["https://host/text", "hf://datasets/x", "file:///tmp"])
def test_other_addresses(path):
    text = message(path)
    assert f"data.path={path!r} is an address of" in text and "gs://, s3://" in text


@pytest.mark.parametrize("path, package", [("gs://bucket/a", "gcsfs"), ("s3://bucket/a", "s3fs")])
def test_a_package_that_is_not_installed(path, package, monkeypatch):
    monkeypatch.setattr(remote.importlib.util, "find_spec", lambda name: None if name == package else object())
    assert f"data.path={path!r} needs {package}, which is not installed: pip install {package};" in message(path)


def test_errors_of_a_driver_are_one_line(monkeypatch):
    class System:
        def find(self, path, detail):
            raise RuntimeError("no credentials\nwere found")

        _strip_protocol = staticmethod(lambda path: path)

    monkeypatch.setattr(remote, "_system", lambda path: System())
    with pytest.raises(UserError, match="'gs://bucket' cannot be read: no credentials.$"):
        remote.found("gs://bucket", frozenset())
