"""Files as streams of bytes, from this machine or from an address, decompressed by their names. Free of jax."""

import gzip
import io
import zlib
from typing import BinaryIO, cast

from longctx.data import remote
from longctx.data.formats.format import PIECE, needed
from longctx.data.span import Span

MOST_WINDOW = 1 << 31  # bytes that zstd may look back: as far as `zstd --ultra --long=31` does
# a frame of zstd behind the last one of a file, see _Zstd
MARK = b"\xb5\x1e longctx: end"


class Broken(Exception):
    """A reason why a stream cannot be decompressed."""


# what reading a decompressed file may raise
BROKEN = (gzip.BadGzipFile, EOFError, zlib.error, Broken)
# the name of each compression, by the end of a file's name
KINDS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}


def kind(name: str) -> str:
    """The compression of a file, by its name: "gzip", "zstd" or ""."""
    return next((found for end, found in KINDS.items() if name.lower().endswith(end)), "")


def without_kind(name: str) -> str:
    """The name without the end that says how the file is compressed."""
    end = next((end for end in KINDS if name.lower().endswith(end)), "")
    return name[: len(name) - len(end)]


def opened(path: str) -> BinaryIO:
    """The bytes of a file as they are. Raises OSError, or UserError for an address that cannot be opened."""
    return remote.opened(path) if remote.is_address(path) else open(path, "rb")


def decompressed(file: BinaryIO, path: str) -> BinaryIO:
    """The content of an opened file, whose reading raises BROKEN where it is damaged. Not seekable if compressed."""
    if kind(path) == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    return cast(BinaryIO, io.BufferedReader(_Zstd(file, path), PIECE)) if kind(path) == "zstd" else file


def part(file: BinaryIO, span: Span) -> BinaryIO:
    """Some lines of an opened file, as a file of their own."""
    return cast(BinaryIO, io.BufferedReader(_Part(file, span), PIECE))


class _Part(io.RawIOBase):
    """The bytes of a span."""

    def __init__(self, file: BinaryIO, span: Span):
        self._file, self._left = file, span.end - span.start
        file.seek(span.start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer, /) -> int:
        room = memoryview(buffer).cast("B")
        piece = self._file.read(min(len(room), self._left))
        room[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)


class _Zstd(io.RawIOBase):
    """The content of a file of zstd frames.

    The library ends a stream in silence where its last frame is cut off. So a frame of our own is read behind the
    file: only where all frames before are whole does the content end with what is in it.
    """

    def __init__(self, file: BinaryIO, path: str):
        self._zstd = needed("zstandard", "zstandard", path)
        frame = self._zstd.ZstdCompressor(write_checksum=True).compress(MARK)
        reader = self._zstd.ZstdDecompressor(max_window_size=MOST_WINDOW)
        self._content = reader.stream_reader(_Joined(file, frame), read_across_frames=True)
        self._held = b""  # what may be the mark

    def readable(self) -> bool:
        return True

    def readinto(self, buffer, /) -> int:
        room = memoryview(buffer).cast("B")
        try:
            piece = self._content.read(max(len(room), len(MARK)))
        except self._zstd.ZstdError as error:
            raise Broken(error) from error
        held = self._held + piece
        while len(held) <= len(MARK) and piece:
            piece = self._content.read(len(MARK))
            held += piece
        if not piece and not held.endswith(MARK):
            raise Broken("it ends inside of a frame")
        ready = min(max(len(held) - len(MARK), 0), len(room))
        room[:ready], self._held = held[:ready], held[ready:]
        return ready


class _Joined:
    """A file with a few bytes behind it, which come with its last ones: a piece that begins with a frame would be taken
    for one where the piece before it breaks off in the head of another."""

    def __init__(self, file: BinaryIO, end: bytes):
        self._file, self._end, self._next = file, end, file.read(PIECE)

    def read(self, size: int = -1) -> bytes:
        piece, self._next = self._next, self._file.read(PIECE) if self._next else b""
        if not self._next:
            piece, self._end = piece + self._end, b""
        return piece
