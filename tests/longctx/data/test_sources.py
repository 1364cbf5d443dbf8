import gzip
import json
import os
import subprocess
import sys
import time

import pytest

from longctx.config import DataConfig
from longctx.data import sources
from longctx.errors import UserError


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def config(path, **kwargs):
    return DataConfig(path=str(path), **{"holdout": 0.5, **kwargs})


def message(*args, **kwargs) -> str:
    """The error for a source: one line, found at once."""
    start = time.perf_counter()
    with pytest.raises(UserError) as error:
        sources.load(config(*args, **kwargs))
    assert time.perf_counter() - start < 1
    assert "\n" not in str(error.value)
    return str(error.value)


def texts(corpus) -> dict[str, bytes]:
    return {document.name: document.text for document in corpus.train + corpus.held_out}


def test_stdlib_split_is_disjoint_and_the_same_every_time():
    corpus, again = sources.load(DataConfig()), sources.load(DataConfig())
    assert corpus == again
    train, held_out = ({document.name for document in part} for part in (corpus.train, corpus.held_out))
    names = train | held_out
    assert not train & held_out and len(names) == len(corpus.train) + len(corpus.held_out)
    assert 0.05 < len(held_out) / len(names) < 0.16
    assert {"argparse.py", "json/decoder.py"} <= names
    assert not any("site-packages" in name or name.startswith(("encodings/", "pydoc_data/")) for name in names)
    assert list(corpus.train) == sorted(corpus.train, key=lambda document: document.name)
    assert all(document.text.decode() for document in corpus.train)
    assert sum(len(document.text) for document in corpus.train) > 5_000_000


def test_a_name_alone_decides_the_side(tmp_path):
    for i in range(40):
        write(tmp_path / "a" / f"{i}.txt", f"first {i}")
        write(tmp_path / "b" / f"{i}.txt", f"another text {i}")
    for i in range(40, 50):
        write(tmp_path / "b" / f"{i}.txt", "more files")
    first, second = (sources.load(config(tmp_path / name)) for name in "ab")
    held_out = {document.name for document in second.held_out}
    assert {document.name for document in first.held_out} == {name for name in held_out if int(name[:-4]) < 40}


def test_a_folder_of_every_kind_plain_and_gzipped(tmp_path):
    for i, extension in enumerate((".txt", ".md", ".py", ".TXT")):
        write(tmp_path / "deep" / f"{i}{extension}", f"text {i}")
        write(tmp_path / f"{i}{extension}.gz", gzip.compress(f"zipped {i}".encode()))
    lines = "".join(json.dumps({"text": f"line {i}", "id": i}) + "\n\n" for i in range(3))
    write(tmp_path / "lines.jsonl", lines)
    write(tmp_path / "more.jsonl.gz", gzip.compress(lines.encode()))
    write(tmp_path / ".hidden" / "no.txt", "no")
    write(tmp_path / "picture.png", b"\x89")
    write(tmp_path / "empty.txt", " \n")
    found = texts(sources.load(config(tmp_path)))
    assert len(found) == 4 + 4 + 3 + 3
    assert found["deep/1.md"] == b"text 1" and found["3.TXT.gz"] == b"zipped 3"
    assert found["lines.jsonl:3"] == b"line 1" and found["more.jsonl.gz:5"] == b"line 2"


def test_any_bytes_survive_and_jsonl_text_is_unescaped(tmp_path):
    junk = bytes(range(256)) * 4
    write(tmp_path / "junk.txt", junk)
    write(tmp_path / "other.jsonl", json.dumps({"body": "naïve \U0001f600 \ud800"}) + "\r\n")
    for i in range(9):
        write(tmp_path / f"{i}.txt", "so that there is a split")
    found = texts(sources.load(config(tmp_path, text_field="body")))
    assert found["junk.txt"] == junk
    assert found["other.jsonl:1"] == "naïve \U0001f600 \ud800".encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("text", [b"0123456789" * 10, "äöü€😀".encode() * 19, b"ab", b"\x80" * 9])
def test_one_document_is_cut_in_two(tmp_path, text):
    corpus = sources.load(config(write(tmp_path / "book.txt", text), holdout=0.1))
    (train,), (held_out,) = corpus.train, corpus.held_out
    assert train.text + held_out.text == text and train.text and held_out.text
    assert train.name != held_out.name
    if len(text) > 50:
        assert 0.08 < len(held_out.text) / len(text) < 0.14
        assert train.text.decode() and held_out.text.decode()       # no character is cut


def test_one_jsonl_file_splits_by_line(tmp_path):
    path = write(tmp_path / "all.jsonl", "\n".join(json.dumps({"text": f"document {i}"}) for i in range(200)))
    corpus = sources.load(config(path, holdout=0.25))
    assert len(texts(corpus)) == 200 and 30 < len(corpus.held_out) < 70


def test_missing_path_gives_the_absolute_one_and_a_neighbour(tmp_path, monkeypatch):
    write(tmp_path / "novels" / "a.txt", "a")
    monkeypatch.chdir(tmp_path)
    text = message("novel")
    assert "data.path='novel'" in text and str(tmp_path / "novel") in text
    assert f"Did you mean {str(tmp_path / 'novels')!r}" in text
    assert "data.path=''" in message("")


def test_no_known_files(tmp_path):
    write(tmp_path / "a.pdf", "x")
    for path in (tmp_path, tmp_path / "a.pdf"):
        text = message(path)
        assert "data.path" in text and ".jsonl" in text and ".gz" in text


def test_only_empty_files(tmp_path):
    write(tmp_path / "a.txt", "")
    write(tmp_path / "b.jsonl", "\n" + json.dumps({"text": ""}))
    assert "holds no text" in message(tmp_path)


@pytest.mark.parametrize("damage", [lambda z: z[:-9], lambda z: b"plain text", lambda z: z[:20] + b"\xff\xff" + z[22:],
                                    lambda z: z[:-6] + bytes([z[-6] ^ 1]) + z[-5:]],
                         ids=["truncated", "not gzip", "damaged", "checksum"])
def test_broken_gzip(tmp_path, damage):
    path = write(tmp_path / "a.txt.gz", damage(gzip.compress(os.urandom(1000))))
    text = message(tmp_path)
    assert repr(str(path)) in text and "gzip" in text


@pytest.mark.parametrize("line, reason", [
    ('{"text": "a"', "is not JSON"), (b'{"text": "\xff"}', "is not JSON"), ("[" * 100_000, "is not JSON"),
    ('["a"]', "is a JSON list"), ('"a"', "is a JSON str"),
    ('{"txt": "a", "n": 1, "title": "b"}', "the text fields there: 'txt', 'title'"),
    ('{"text": 5}', "the text fields there: none"), ("{}", "the text fields there: none")])
def test_broken_jsonl_names_file_and_line(tmp_path, line, reason):
    good = json.dumps({"text": "good"}).encode()
    line = line if isinstance(line, bytes) else line.encode()
    path = write(tmp_path / "a.jsonl", b"\n".join([good, b"", line, good]))
    text = message(tmp_path)
    assert f"line 3 of {str(path)!r}" in text and reason in text


def test_unreadable_files(tmp_path, monkeypatch):
    (tmp_path / "link.txt").symlink_to(tmp_path / "gone")
    assert "link.txt" in message(tmp_path) and "cannot be read" in message(tmp_path)
    (tmp_path / "link.txt").unlink()
    os.mkfifo(tmp_path / "pipe.txt")
    assert "not a regular file" in message(tmp_path)
    (tmp_path / "pipe.txt").unlink()

    path = write(tmp_path / "secret.txt", "x")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))
    monkeypatch.setattr(sources.Path, "read_bytes", refuse)     # file modes do not stop root
    assert repr(str(path)) in message(tmp_path) and "Permission denied" in message(tmp_path)


def test_unreadable_folder(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "x")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))
    monkeypatch.setattr(os, "scandir", refuse)
    assert f"{str(tmp_path)!r} cannot be read: Permission denied" in message(tmp_path)


@pytest.mark.parametrize("holdout", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_holdout_out_of_range(tmp_path, holdout):
    write(tmp_path / "a.txt", "x")
    assert f"data.holdout={holdout}" in message(tmp_path, holdout=holdout)


@pytest.mark.parametrize("holdout, reason", [(1e-6, "none of the 5"), (1 - 1e-6, "all of the 5")])
def test_a_holdout_that_splits_nothing_names_one_that_does(tmp_path, holdout, reason):
    for i in range(5):
        write(tmp_path / f"{i}.txt", "x")
    text = message(tmp_path, holdout=holdout)
    assert reason in text
    works = float(text.split("; ")[1].split()[0])
    corpus = sources.load(config(tmp_path, holdout=works))
    assert len(corpus.held_out if holdout < 0.5 else corpus.train) == 1


def test_loading_needs_neither_jax_nor_grain():
    code = """
import sys
from longctx.config import Config, DataConfig, StageConfig
from longctx.data import curriculum, sources, tokenizers
curriculum.plan(Config(stages=(StageConfig(steps=1),)))
assert sources.load(DataConfig()).train and tokenizers.load("bytes")
print([name for name in ("jax", "grain", "tokenizers") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
