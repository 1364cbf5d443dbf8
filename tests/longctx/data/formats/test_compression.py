"""Streams of zstd: whole ones of any kind, and what breaks them."""

import gzip
import io
import os
import random
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.data import reading
from longctx.data.formats import opening
from tests.longctx.data.formats.helpers import message, note, texts

NOISE = random.Random(0).randbytes(300_000)


def content(data: bytes, name: str = "a.zst") -> bytes:
    return opening.decompressed(io.BytesIO(data), name).read()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300)), st.booleans(), st.integers(1, 200))
def test_frames_in_a_row_are_one_stream(parts, checksum, size):
    compressor = zstandard.ZstdCompressor(write_checksum=checksum)
    data = b"".join(map(compressor.compress, parts))
    assert content(data) == b"".join(parts)
    assert data == b"" or content(b"\x50\x2a\x4d\x18\x03\0\0\0abc" + data) == b"".join(parts)  # a frame to skip
    file = opening.decompressed(io.BytesIO(data), "a.zstd")
    assert b"".join(iter(lambda: file.read(size), b"")) == b"".join(parts)


@pytest.mark.parametrize("text", [NOISE, b"a line\n" * 50_000, b"", opening.MARK, b"short"])
def test_a_stream_cut_anywhere_is_broken(text):
    data = zstandard.compress(text)
    assert content(data) == text
    cuts = {*range(1, min(len(data), 40)), *range(1, len(data), 50_000), len(data) - 1}
    for cut in cuts - {len(data)}:
        with pytest.raises(opening.Broken):
            content(data[:cut])


def test_a_window_of_long_mode_is_read():
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # does not say the size
    data = compressor.compress(NOISE * 2) + compressor.flush()
    with pytest.raises(zstandard.ZstdError, match="too much memory"):
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    assert content(data) == NOISE * 2


@pytest.mark.parametrize(
    "damage",
    [lambda z: z[:-9], lambda z: b"plain text", lambda z: z[:30] + b"\xff" * 9 + z[39:], lambda z: z + b"rest"],
    ids=["truncated", "not zstd", "damaged", "more behind it"],
)
def test_broken_zstd(tmp_path, damage):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(damage(zstandard.ZstdCompressor(write_checksum=True).compress(NOISE[:1000] + bytes(9999))))
    text = message(path)
    assert f"{str(path)!r} is not a whole zstd file (" in text and "data.bad='skip'" in text
    (tmp_path / "b.txt").write_text("sound")
    assert texts(tmp_path, bad="skip") == {"b.txt": b"sound"} and "1 bad document ('a.txt.zst' is" in note(tmp_path)


def test_lines_before_the_break_are_documents(tmp_path):
    lines = b"".join(b'{"text": "%d %s"}\n' % (i, os.urandom(40).hex().encode()) for i in range(20_000))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines)[:-100])
    found = texts(tmp_path, bad="skip")
    assert 10_000 < len(found) < 20_000 and found["a.jsonl.zst:1"].startswith(b"0 ")


@pytest.mark.parametrize("compress", [zstandard.compress, gzip.compress])
def test_kilobytes_that_hold_much_are_refused(tmp_path, monkeypatch, compress):
    monkeypatch.setattr(reading, "free_memory", lambda: 5 * 4_000_000)
    path = tmp_path / ("a.txt.zst" if compress is zstandard.compress else "a.txt.gz")
    path.write_bytes(compress(b"1" * 60_000_000))
    tracemalloc.start()
    text = message(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert "holds 4.2 MB or more" in text and "20.0 MB of memory are free" in text


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    (tmp_path / "a.txt.zst").write_bytes(b"")
    assert "a.txt.zst' needs zstandard, which is not installed: pip install 'longctx[data]'" in message(tmp_path)
