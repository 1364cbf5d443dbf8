import codecs
import gzip
import json
import os
import subprocess
import sys
import time
import tracemalloc

import pytest

from longctx.config import DataConfig
from longctx.data import left_out, reading, sources
from longctx.data.formats import api as formats
from longctx.data.formats import opening
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
    assert "bad documents" in corpus.notes[0] and "is not UTF-8 at byte" in corpus.notes[0]


def test_pydoc_is_long_documents_of_prose_and_all_of_it_may_be_held_out():
    corpus = sources.load(DataConfig(path="pydoc", holdout=1.0))
    assert corpus == sources.load(DataConfig(path="pydoc", holdout=1.0)) and not corpus.train
    assert len(corpus.held_out) > 2 and min(len(document.text) for document in corpus.held_out) >= sources.PROSE
    text = b"".join(document.text for document in corpus.held_out)
    assert text.count(b'The "with" statement is used to wrap the execution of a block') == 1


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
    corpus = sources.load(config(tmp_path))
    found = texts(corpus)
    assert corpus.notes == (
        f"left out of data.path={str(tmp_path)!r}: 1 file (1 .png), 1 folder (1 .hidden), 1 empty document",
    )
    assert len(found) == 4 + 4 + 3 + 3
    assert found["deep/1.md"] == b"text 1" and found["3.TXT.gz"] == b"zipped 3"
    assert found["lines.jsonl:3"] == b"line 1" and found["more.jsonl.gz:5"] == b"line 2"


def test_any_bytes_survive_and_jsonl_text_is_unescaped(tmp_path):
    junk = bytes(range(256)) * 4
    write(tmp_path / "junk.txt", junk)
    line = json.dumps({"body": "naïve \U0001f600"})[:-1] + f', "number": {"9" * 5000}}}\r\n'
    write(tmp_path / "other.jsonl", line)
    for i in range(9):
        write(tmp_path / f"{i}.txt", "so that there is a split")
    corpus = sources.load(config(tmp_path, text_field="body"))
    found = texts(corpus)
    assert found["junk.txt"] == junk and not corpus.notes
    assert found["other.jsonl:1"] == "naïve \U0001f600".encode()


@pytest.mark.parametrize("text", [b"0123456789" * 10, "äöü€😀".encode() * 19, b"ab", b"\x80" * 9])
def test_one_document_is_cut_in_two(tmp_path, text):
    corpus = sources.load(config(write(tmp_path / "book.txt", text), holdout=0.1))
    (train,), (held_out,) = corpus.train, corpus.held_out
    assert train.text + held_out.text == text and train.text and held_out.text
    assert train.name != held_out.name
    if len(text) > 50:
        assert 0.08 < len(held_out.text) / len(text) < 0.14
        assert train.text.decode() and held_out.text.decode()  # no character is cut


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


@pytest.mark.parametrize(
    "damage",
    [
        lambda z: z[:-9],
        lambda z: b"plain text",
        lambda z: z[:20] + b"\xff\xff" + z[22:],
        lambda z: z[:-6] + bytes([z[-6] ^ 1]) + z[-5:],
    ],
    ids=["truncated", "not gzip", "damaged", "checksum"],
)
def test_broken_gzip(tmp_path, damage):
    path = write(tmp_path / "a.txt.gz", damage(gzip.compress(os.urandom(1000))))
    text = message(tmp_path)
    assert repr(str(path)) in text and "gzip" in text


BAD_LINES = [
    (b'{"text": "a"', "is not JSON"),
    (b'{"text": "\xff"}', "is not UTF-8 at byte 10 (0xff)"),
    (b"[" * 100_000, "nested deeper"),
    (b'{"text": "a", "more": ' + b"[" * 100_000, "nested deeper"),
    (b'["a"]', "is a JSON list"),
    (b'"a"', "is a JSON str"),
    (b'{"txt": "a", "n": 1, "title": "b"}', "the text fields there: 'txt', 'title'"),
    (b'{"text": 5}', "the text fields there: none"),
    (b"{}", "the text fields there: none"),
    (b'{"text": "\\ud83d"}', "half of a surrogate pair"),
    (b'{"text": "a", "text": "b"}', "the key 'text' twice"),
]
GOOD = json.dumps({"text": "good"}).encode()


@pytest.mark.parametrize("line, reason", BAD_LINES, ids=[reason for _, reason in BAD_LINES])
def test_a_bad_line_is_named_with_its_file(tmp_path, line, reason):
    path = write(tmp_path / "a.jsonl", b"\n".join([GOOD, b"", line, GOOD]))
    text = message(tmp_path)
    assert f"line 3 of {str(path)!r}" in text and reason in text and "data.bad='skip'" in text


def test_bad_documents_are_left_out_and_counted(tmp_path):
    write(tmp_path / "a.jsonl", b"\n".join([*(line for line, _ in BAD_LINES), GOOD]))
    write(tmp_path / "b.txt.gz", gzip.compress(os.urandom(1000))[:-9])
    write(tmp_path / "latin.txt", "caf\u00e9".encode("latin-1"))
    corpus = sources.load(config(tmp_path, bad="skip", tokenizer="tokenizer.json", holdout=0.3))
    assert set(texts(corpus)) == {f"a.jsonl:{len(BAD_LINES) + 1} ({part})" for part in ("start", "end")}
    (note,) = corpus.notes
    assert f"{len(BAD_LINES) + 2} bad documents (line 1 of 'a.jsonl' is not JSON" in note
    assert note.endswith(f"; and {len(BAD_LINES) + 2 - left_out.SHOWN} more)") and len(note) < 500
    assert "'latin.txt' is not UTF-8" not in note and "b'caf" not in note
    text = message(tmp_path / "latin.txt", tokenizer="tokenizer.json")
    assert "latin.txt' is not UTF-8 at byte 3 (0xe9)" in text and "data.tokenizer='bytes' takes any" in text
    assert "data.bad='skp'" in message(tmp_path, bad="skp")


@pytest.mark.parametrize(
    "data, expected",
    [
        (codecs.BOM_UTF8 + b"text", b"text"),
        ("t\u00e9xt \U0001f600".encode("utf-16"), "t\u00e9xt \U0001f600".encode()),
        (codecs.BOM_UTF16_BE + "text".encode("utf-16-be"), b"text"),
        ("text".encode("utf-32"), b"text"),
        (codecs.BOM_UTF16_LE + b"odd", "begins with the byte order mark of UTF-16-LE, and is not"),
        ("No byte order mark.".encode("utf-16-le"), "looks like UTF-16"),
        (b"zeros" + bytes(9), b"zeros" + bytes(9)),
    ],
    ids=["utf-8", "utf-16", "utf-16 big endian", "utf-32", "not whole", "no mark", "zeros at the end"],
)
def test_a_byte_order_mark_is_no_text(tmp_path, data, expected):
    path = write(tmp_path / "a.txt", data)
    write(tmp_path / "b.txt", "another")
    if isinstance(expected, str):
        text = message(tmp_path)
        assert f"{str(path)!r} {expected}" in text
    else:
        assert texts(sources.load(config(tmp_path, holdout=0.8)))["a.txt"] == expected


def test_jsonl_is_utf8(tmp_path):
    assert "is UTF-16-LE; .jsonl must be UTF-8" in message(write(tmp_path / "a.jsonl", GOOD.decode().encode("utf-16")))
    assert "is UTF-16; .jsonl" in message(write(tmp_path / "b.jsonl", GOOD.decode().encode("utf-16-be")))
    found = texts(sources.load(config(write(tmp_path / "c.jsonl", codecs.BOM_UTF8 + GOOD))))
    assert b"".join(found.values()) == b"good"


@pytest.mark.parametrize("name", ["a/train.orc", "train.jsonl.xz", "t.parquet.zst", "x.csv.gz", "words.gz", "ids.NPZ"])
def test_data_that_nobody_can_read_is_not_left_out_unasked(tmp_path, name):
    write(tmp_path / "README.md", "what it is " * 9)
    write(tmp_path / name, "data")
    kind = formats.extension(name)
    text = message(tmp_path)
    assert f"1 file (1 {kind})" in text and repr(name) in text and f"data.ignore=({kind!r},) leaves" in text
    corpus = sources.load(config(tmp_path, ignore=(kind.upper(),) if kind != ".gz" else (".txt", kind)))
    assert {document.split(" ")[0] for document in texts(corpus)} == {"README.md"}
    assert f"1 file (1 {kind})" in corpus.notes[0]


def test_what_is_ignored_may_be_text_and_must_be_an_extension(tmp_path):
    write(tmp_path / "README.md", "what it is")
    write(tmp_path / "a.txt", "text")
    assert {name.split(" ")[0] for name in texts(sources.load(config(tmp_path, ignore=(".md",))))} == {"a.txt"}
    assert "data.ignore[1]='md'" in message(tmp_path, ignore=(".x", "md"))
    assert "only 2 files (1 .md, 1 .txt)" in message(tmp_path, ignore=(".md", ".txt"))


def test_links_are_followed_and_each_file_is_read_once(tmp_path):
    """A link to a folder outside, one in a circle, and links to files: one with another name is no other document."""
    write(tmp_path / "outside" / "far.txt", "far")
    write(tmp_path / "outside" / "blob", "by its link alone")
    root = tmp_path / "root"
    write(root / "z" / "real.txt", "real")
    os.link(root / "z" / "real.txt", root / "z" / "same.txt")
    for name, target in (
        ("a", root / "z"),
        ("circle", root),
        ("z/up", tmp_path),
        ("linked", tmp_path / "outside"),
        ("b.txt", root / "z" / "real.txt"),
        ("c.md", tmp_path / "outside" / "blob"),
    ):
        (root / name).symlink_to(target)
    corpus = sources.load(config(root, holdout=0.4))
    assert texts(corpus) == {"z/real.txt": b"real", "linked/far.txt": b"far", "c.md": b"by its link alone"}
    assert corpus.notes[0].endswith(": 2 other names of files that are read")


def test_more_text_than_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """A few kilobytes of gzip that hold 60 MB, as one document and as one line, take no more memory than they may."""
    monkeypatch.setattr(reading, "free_memory", lambda: 5 * 4_000_000)
    for name in ("a.txt.gz", "a.jsonl.gz"):
        path = write(tmp_path / name, gzip.compress(b"1" * 60_000_000, 1))
        tracemalloc.start()
        text = message(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()
        assert "holds 4.2 MB or more" in text and "at most 4.0 MB" in text and "20.0 MB of memory are free" in text
    write(tmp_path / "b.txt", b"1" * 900_000)
    assert "1.4 MB in 3 files" in message(tmp_path, max_bytes=500_000)
    monkeypatch.setattr(opening, "open", None, raising=False)  # nothing is read
    assert "0.9 MB in 1 file, and at most 0.5 MB can be read: data.max_bytes=500000" in message(
        tmp_path / "b.txt", max_bytes=500_000
    )
    assert "data.max_bytes=-1" in message(tmp_path, max_bytes=-1)


def test_unreadable_files(tmp_path, monkeypatch):
    (tmp_path / "link.txt").symlink_to(tmp_path / "gone")
    assert "link.txt" in message(tmp_path) and "cannot be read" in message(tmp_path)
    (tmp_path / "link.txt").unlink()
    os.mkfifo(tmp_path / "pipe.txt")
    assert "not a regular file" in message(tmp_path)
    (tmp_path / "pipe.txt").unlink()

    path = write(tmp_path / "secret.txt", "x")

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(opening, "open", refuse, raising=False)  # file modes do not stop root
    assert repr(str(path)) in message(tmp_path) and "Permission denied" in message(tmp_path)


def test_unreadable_folder(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "x")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"{str(tmp_path)!r} cannot be read: Permission denied" in message(tmp_path)


@pytest.mark.parametrize("holdout", [0.0, -0.1, 2.0, float("nan")])
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
names = "jax", "grain", "tokenizers", "pyarrow", "zstandard", "array_record", "fsspec"
print([name for name in names if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
