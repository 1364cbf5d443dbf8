"""Tokens on disk: the folder that experiments.tokenize makes of a text of any size, read by memory mapping.

    store.json    what it is made of: the tokenizer, sizes and a checksum; written last, so a folder with it is whole
    tokens.bin    the ids of all documents, one after another
    counts.bin    a byte for each id, whether it counts in the loss; absent where all do
    ends.npy      i64[documents]: where each document ends in them
    names.txt     the name of each document, with newlines in between; name_ends.npy i64[documents]: where each ends
    places.npy    f64[documents]: longctx.data.document.place of each name, by which documents are held out

Memory is taken by 16 bytes a document; everything else is read where it is asked for. Free of jax and grain.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from longctx.data.document import place
from longctx.data.rows import TokenTable
from longctx.data.tokenizers import Tokenizer
from longctx.data.views import Lazy
from longctx.errors import UserError
from longctx.json_files import read_object

STORE, TOKENS, COUNTS, NAMES = "store.json", "tokens.bin", "counts.bin", "names.txt"
ENDS, NAME_ENDS, PLACES = "ends.npy", "name_ends.npy", "places.npy"
VERSION = 1
PIECE = 1 << 20


class Part(NamedTuple):
    """Some documents in a row: ids, where each ends in them, the names, and which ids count (None: all)."""

    ids: np.ndarray
    ends: np.ndarray
    names: list[str]
    counts: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Store:
    """An open store. places: f64[documents], see document.place. notes: lines for people about what was left out."""

    table: TokenTable
    places: np.ndarray
    notes: tuple[str, ...]


def is_store(path) -> bool:
    """Whether a folder is a store that was finished."""
    return (Path(path) / STORE).is_file()


def identity(tokenizer: Tokenizer) -> dict:
    """What tells a tokenizer from others, for JSON: the ids that it gives some texts, and its special ones."""
    probe = "The quick brown fox\n\tjumps over 12,345 lazy dogs; \u00fc\u4e2d\u6587\U0001f600 def f(x): return x ** 2  "
    ids = np.asarray(tokenizer.encode(probe.encode()), np.int64)
    return {
        "vocab_size": tokenizer.vocab_size,
        "bos": tokenizer.bos,
        "eos": tokenizer.eos,
        "probe": hashlib.sha256(ids.tobytes()).hexdigest()[:16],
    }


def write(folder, parts: Iterable[Part], tokenizer: Tokenizer, notes: Sequence[str], about: dict) -> None:
    """Writes a store of the documents of all parts, one part after another; holds one of them in memory.

    about: what else store.json is to say, such as of which files it was made.
    """
    folder = Path(folder)
    with _Writer(folder, np.min_scalar_type(tokenizer.vocab_size - 1)) as writer:
        for part in parts:
            writer.add(part)
    content = {"version": VERSION, **writer.finish(), "tokenizer": identity(tokenizer), "notes": list(notes), **about}
    unfinished = folder / f"{STORE}.unfinished"
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(unfinished, folder / STORE)


class _Writer(contextlib.ExitStack):
    """The files of a store while they are written."""

    def __init__(self, folder: Path, dtype: np.dtype):
        super().__init__()
        self._folder, self._dtype = folder, dtype
        self._tokens, self._counts, self._names = (
            self.enter_context(open(folder / name, "wb")) for name in (TOKENS, COUNTS, NAMES)
        )
        self._ends, self._name_ends, self._places = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
        self._total, self._total_names, self._of_ids, self._of_counts, self._has_counts = 0, 0, 0, 0, False

    def add(self, part: Part) -> None:
        """Writes the documents of a part behind those before."""
        if part.counts is not None and not self._has_counts:
            self._of_counts, self._has_counts = _write_ones(self._counts, self._total), True
        if self._has_counts:
            flags = b"\1" * len(part.ids) if part.counts is None else part.counts.tobytes()
            self._of_counts = zlib.crc32(flags, self._of_counts)
            self._counts.write(flags)
        data = part.ids.astype(self._dtype).tobytes()
        self._of_ids = zlib.crc32(data, self._of_ids)
        self._tokens.write(data)
        self._ends.append(part.ends + self._total)
        self._total += len(part.ids)
        lines = [name.encode("utf-8", "surrogateescape") + b"\n" for name in part.names]
        self._names.write(b"".join(lines))
        self._name_ends.append(self._total_names + np.cumsum([len(line) for line in lines], dtype=np.int64))
        self._total_names += sum(map(len, lines))
        self._places.append(np.array([place(name) for name in part.names], float))

    def finish(self) -> dict:
        """What store.json says of the files, which are closed."""
        if not self._has_counts:
            (self._folder / COUNTS).unlink()
        ends = np.concatenate(self._ends)
        np.save(self._folder / ENDS, ends)
        np.save(self._folder / NAME_ENDS, np.concatenate(self._name_ends))
        np.save(self._folder / PLACES, np.concatenate(self._places))
        return {
            "dtype": str(self._dtype),
            "tokens": self._total,
            "documents": len(ends),
            "checksum": self._of_ids ^ self._of_counts if self._has_counts else self._of_ids,
            "counts": self._has_counts,
        }


def _write_ones(file: BinaryIO, count: int) -> int:
    """Writes `count` bytes of 1, and returns their checksum."""
    checksum = 0
    for start in range(0, count, PIECE):
        ones = b"\1" * min(PIECE, count - start)
        checksum = zlib.crc32(ones, checksum)
        file.write(ones)
    return checksum


def open_store(folder, tokenizer: Tokenizer) -> Store:
    """The store in a folder. Raises UserError for one of another tokenizer, and for files that were not written so."""
    folder = Path(folder)
    content = read_object(folder / STORE)
    if content.get("version") != VERSION:
        raise UserError(
            f"{folder / STORE}: version {content.get('version')!r} is not known; {VERSION} is. Make it anew."
        )
    if content["tokenizer"] != identity(tokenizer):
        raise UserError(
            f"data.path={str(folder)!r} holds tokens of another tokenizer ({_said(content['tokenizer'])}) than "
            f"data.tokenizer={tokenizer.name!r} ({_said(identity(tokenizer))}); make it anew with experiments.tokenize."
        )
    dtype, tokens = np.dtype(content["dtype"]), content["tokens"]
    ids = _mapped(folder / TOKENS, dtype, tokens)
    counts = _mapped(folder / COUNTS, np.dtype(bool), tokens) if content["counts"] else None
    ends = np.load(folder / ENDS)
    if len(ends) != content["documents"] or (len(ends) and ends[-1] != tokens):
        raise UserError(f"{folder / ENDS} is not the file that was written with {folder / STORE}; make the store anew.")
    starts = np.concatenate([[0], ends]).astype(np.int64)[:-1]
    table = TokenTable(ids, starts, ends - starts - 1, Names(folder), counts, checksum=content["checksum"])
    return Store(table, np.load(folder / PLACES), tuple(content["notes"]))


def _said(of: dict) -> str:
    return f"{of['vocab_size']:,} tokens, bos {of['bos']}, eos {of['eos']}, sample {of['probe']}"


def _mapped(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    """A file as an array. Raises UserError where it is not of the size that was written."""
    size = path.stat().st_size if path.is_file() else -1
    if size != count * dtype.itemsize:
        raise UserError(
            f"{path} has {max(size, 0):,} bytes and should have {count * dtype.itemsize:,}; copy it again, or make the "
            "store anew."
        )
    return np.memmap(path, dtype, "r", shape=(count,)) if count else np.zeros(0, dtype)


class Names(Lazy[str]):
    """The names of the documents of a store, each read when it is asked for."""

    def __init__(self, folder: Path):
        self._folder, self._ends = folder, np.load(folder / NAME_ENDS, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._ends)

    def item(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        with open(self._folder / NAMES, "rb") as file:
            file.seek(start)
            return file.read(int(self._ends[index]) - start - 1).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        text, ends = (self._folder / NAMES).read_bytes(), self._ends.tolist()
        pieces = (text[start : end - 1] for start, end in zip([0, *ends], ends, strict=False))
        return (piece.decode("utf-8", "surrogateescape") for piece in pieces)
