"""Samples of Mosaic's streaming data sets: an index.json and its shards, .mds, which may be compressed.

A shard, little-endian: u32 samples, u32 offsets[samples + 1] from its start, then the samples, each the u32 sizes of
its columns without a fixed size and the bytes of all columns. An array without a type in its encoding begins with a
byte for that, one without a shape with a byte (dimensions << 2 | log2 of the bytes of each) and the dimensions.
"""

import json
import math
import posixpath
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from longctx.data.formats import opening, tokens
from longctx.data.formats.format import PIECE, Metered, Part, Reading
from longctx.data.formats.json_records import decoded, values
from longctx.data.formats.tokens import MASK, TYPES, checked, token_dtype
from longctx.data.records.record import Bad
from longctx.errors import UserError

INDEX = "index.json"
IDS = (tokens.IDS, "tokens")  # columns that hold ids
RANGES = "indices"  # ProLong's column: the (first id, id after the last) of each document of a sample
ARRAY = "ndarray"
# the types of arrays by the byte in front of them: bits, + 1 for signed
CODES = {np.dtype(name).itemsize * 8 + name.startswith("int"): name for name in TYPES}


class Column(NamedTuple):
    """A column of samples: its encoding, and its bytes where that is fixed, else 0."""

    name: str
    encoding: str
    size: int


class Shard(NamedTuple):
    """A file of samples. zipped: its name where it is compressed, "" if it never is."""

    path: str
    zipped: str
    columns: tuple[Column, ...]
    samples: int


def read(file: Metered, reading: Reading) -> Iterator[Part]:
    """A file of JSON, or the samples of all shards where it is the index of some, numbered through."""
    if file.path.rpartition("/")[2] == INDEX:
        index = _index(file.raw.read())
        if index is not None:
            yield from _samples(_shards(index, file.path), file, reading)
            return
        file.raw.seek(0)
    yield from values(file, reading)


def alone(file: Metered, reading: Reading) -> Iterator[Part]:
    """A shard that nothing says the columns of. Raises UserError."""
    raise UserError(
        f"data.path: {file.path!r} is a shard of a data set, which is read by its {INDEX}: give that, or the folder "
        "of both."
    )
    yield  # a generator, like every reader


def _index(data: bytes) -> dict[str, Any] | None:
    """The index in a file; None for JSON that is none."""
    try:
        index = decoded(data)
    except Bad:
        return None
    return index if isinstance(index, dict) and isinstance(index.get("shards"), list) else None


def _shards(index: dict[str, Any], path: str) -> list[Shard]:
    """The shards of an index. Raises UserError for an index that cannot be followed."""
    shards, folder = [], path.rpartition("/")[0]
    for number, said in enumerate(index["shards"]):
        try:
            if (said["format"], said["version"]) != ("mds", 2):
                raise UserError(
                    f"data.path: {path!r} has shard {number} of format {said['format']!r}, version "
                    f"{said['version']:g}; 'mds', version 2, is read."
                )
            raw, zipped = said["raw_data"]["basename"], (said.get("zip_data") or {"basename": ""})["basename"]
            names, encodings, sizes = (said[f"column_{what}"] for what in ("names", "encodings", "sizes"))
            columns = zip(map(str, names), map(str, encodings), [int(size or 0) for size in sizes], strict=True)
            shards.append(
                Shard(
                    posixpath.join(folder, raw),
                    zipped and posixpath.join(folder, zipped),
                    tuple(Column(*column) for column in columns),
                    int(said["samples"]),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"data.path: {path!r} does not describe shard {number} as an index of Mosaic's does "
                f"({type(error).__name__}: {error})."
            ) from error
    return shards


def _samples(shards: list[Shard], file: Metered, reading: Reading) -> Iterator[Part]:
    """The document of each sample: a record where a column is a field of the form, else its ids."""
    number = 0
    for shard in shards:
        fields = [column for column in shard.columns if column.name in reading.form.fields]
        ids = next((column for name in IDS for column in shard.columns if column.name == name), None)
        if not fields and ids is None:
            wanted = " or ".join(map(repr, (*reading.form.fields, *IDS)))
            there = ", ".join(repr(column.name) for column in shard.columns)
            raise UserError(f"data.path: {file.path!r} has no column {wanted}; the columns there: {there}.")
        for sample in _cells(shard, file):
            number += 1
            if fields or ids is None:
                yield _of_record(number, sample, fields, file.path, reading)
            else:
                yield from _of_ids(number, sample, ids, shard, file.path, reading)


def _cells(shard: Shard, file: Metered) -> Iterator[dict[str, bytes]]:
    """The bytes of each column, by name, of each sample of a shard. Raises UserError for a damaged one."""
    path = shard.path
    try:
        raw = opening.opened(path)
    except FileNotFoundError as error:
        if not shard.zipped:
            raise UserError(f"data.path: {file.path!r} names {path!r}, which is not there.") from error
        path = shard.zipped
        raw = _zipped(shard, file.path)
    wrong = lambda what: UserError(f"data.path: {path!r} is not a whole shard: {what}.")
    with raw:
        try:
            content = opening.decompressed(raw, path)
            count = int.from_bytes(content.read(4), "little")
            offsets = np.frombuffer(_exactly(content, 4 * (count + 1)), "<u4").astype(np.int64)
            if count != shard.samples:
                raise wrong(f"it has {count:,} samples, and the index says {shard.samples:,}")
            if offsets[0] < 4 * (count + 2) or (np.diff(offsets) < 0).any():
                raise wrong("its samples do not lie one after another")
            _exactly(content, int(offsets[0]) - 4 * (count + 2))  # what the shard says of itself
            for number, size in enumerate(np.diff(offsets).tolist(), start=1):
                file.take(size)
                yield _split(_exactly(content, size), shard.columns, lambda n=number: wrong(f"sample {n} is cut"))
            if content.read(1):  # which also compares the checksum of what is compressed
                raise wrong("it goes on behind its last sample")
        except (*opening.BROKEN, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise wrong(str(error)) from error


def _zipped(shard: Shard, index: str) -> BinaryIO:
    """The file of a shard that is compressed. Raises UserError where it cannot be read."""
    if not opening.kind(shard.zipped):
        raise UserError(
            f"data.path: {index!r} names {shard.zipped!r}, whose compression is not known; zstd and gzip are, and "
            "shards that are not compressed."
        )
    try:
        return opening.opened(shard.zipped)
    except FileNotFoundError as error:
        raise UserError(
            f"data.path: {index!r} names {shard.path!r} and {shard.zipped!r}, of which neither is there."
        ) from error


def _exactly(content: BinaryIO, size: int) -> bytes:
    """The next bytes, read a piece at a time, so that a wrong size takes no memory. Raises EOFError where some miss."""
    pieces, left = [], size
    while left and (piece := content.read(min(left, PIECE))):
        pieces.append(piece)
        left -= len(piece)
    if left:
        raise EOFError(f"it ends {left:,} bytes too early")
    return b"".join(pieces)


def _split(sample: bytes, columns: tuple[Column, ...], wrong) -> dict[str, bytes]:
    """The bytes of each column of a sample; wrong: makes the error for one that has too few or too many."""
    variable = [column for column in columns if not column.size]
    sizes = iter(np.frombuffer(sample[: 4 * len(variable)], "<u4").tolist())
    cells, at = {}, 4 * len(variable)
    for column in columns:
        size = column.size or next(sizes, len(sample) + 1)
        cells[column.name] = sample[at : at + size]
        at += size
    if at != len(sample):
        raise wrong()
    return cells


def _of_record(number: int, sample: dict[str, bytes], fields: list[Column], path: str, reading: Reading) -> Part:
    try:
        record = {column.name: _value(sample[column.name], column, path) for column in fields}
        return Part(number, reading.form.content(record))
    except Bad as why:
        return Part(number, bad=str(why))


def _value(cell: bytes, column: Column, path: str) -> Any:
    """The value of a column that is text or JSON."""
    if column.encoding not in ("str", "json"):
        raise UserError(
            f"data.path: {path!r} has the column {column.name!r} in {column.encoding!r}; 'str' and 'json' are read."
        )
    try:
        return cell.decode() if column.encoding == "str" else json.loads(cell)
    except ValueError as error:
        raise Bad(f"has no {column.encoding} in the column {column.name!r} ({error})") from error


def _of_ids(
    number: int, sample: dict[str, bytes], column: Column, shard: Shard, path: str, reading: Reading
) -> Iterator[Part]:
    """The documents of a sample of ids: all of it, or each of its ranges."""
    where, tokenizer = f"sample {number} of {path!r}", reading.tokenizer()
    named = {one.name: one for one in shard.columns}
    try:
        ids = _array(sample[column.name], column, path, reading)
        counts = _array(sample[MASK], named[MASK], path, reading) != 0 if MASK in named else None
        if counts is not None and len(counts) != len(ids):
            raise Bad(f"has {len(ids)} ids and {len(counts)} values in the column {MASK!r}")
        ranges = _ranges(_array(sample[RANGES], named[RANGES], path, reading), len(ids)) if RANGES in named else None
    except Bad as why:
        yield Part(number, bad=str(why))
        return
    kept = np.min_scalar_type(tokenizer.vocab_size - 1)  # ids are often written in 8 bytes each
    ids = checked(ids, tokenizer, where).astype(kept)
    if ranges is None:
        yield Part(number, ids=ids, counts=counts)
        return
    for i, (first, end) in enumerate(ranges.tolist(), start=1):
        of_range = None if counts is None else counts[first:end]
        yield Part(number, name=f"{number}:{i}", ids=ids[first:end], counts=of_range)


def _ranges(numbers: np.ndarray, size: int) -> np.ndarray:
    """The ranges of documents [ranges, 2] in so many ids. Raises Bad for what are none."""
    ranges = numbers.astype(np.int64)
    if len(ranges) % 2 or (np.diff(ranges) < 0).any() or (len(ranges) and not 0 <= ranges[0] <= ranges[-1] <= size):
        raise Bad(f"has no ranges of its {size} ids, one behind the other, in the column {RANGES!r}")
    return ranges.reshape(-1, 2)


def _array(cell: bytes, column: Column, path: str, reading: Reading) -> np.ndarray:
    """The numbers in a column, in one dimension. Raises Bad for bytes that are none, UserError for another encoding."""
    kind, _, rest = column.encoding.partition(":")
    name, _, shape = rest.partition(":")
    if kind == "bytes":
        dtype, at, count = token_dtype(path, reading), 0, None
    elif kind == ARRAY and (not name or name in TYPES):
        start = 0 if name else 1
        name = name or CODES.get(next(iter(cell), 0), "")
        if not name:
            raise Bad(f"has no whole numbers in the column {column.name!r}")
        dtype = np.dtype(name).newbyteorder("<")
        at, count = (start, None) if shape else _shape(cell, start)
    else:
        raise UserError(
            f"data.path: {path!r} has the column {column.name!r} in {column.encoding!r}; ids are read in 'bytes' and "
            "in 'ndarray' of whole numbers."
        )
    size = max(len(cell) - at, 0)
    if size % dtype.itemsize or count not in (None, size // dtype.itemsize):
        said = f"not {count} numbers" if count is not None else "no whole number"
        raise Bad(f"has {size} bytes in the column {column.name!r}, {said} of {dtype.itemsize}")
    return np.frombuffer(cell[at:], dtype)


def _shape(cell: bytes, start: int) -> tuple[int, int]:
    """(the byte behind a shape that begins at byte `start`, how many numbers an array of it has)."""
    if start >= len(cell):
        return start, 1  # what follows is not there either
    dimensions, width = cell[start] >> 2, 1 << (cell[start] & 3)
    end = start + 1 + dimensions * width
    sizes = (int.from_bytes(cell[at : at + width], "little") for at in range(start + 1, end, width))
    return end, math.prod(sizes)
