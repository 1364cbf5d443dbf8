"""Documents that are token ids already: NumPy's .npy, raw .bin of nanoGPT and llm.c, and columns of records."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from longctx.data import remote
from longctx.data.formats.format import PIECE, Metered, Part, Reading, unusable
from longctx.data.records.record import Bad
from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError

TYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
IDS = "input_ids"  # the field of a record that holds ids; "tokens" often holds words
MASK = "mask"  # the field that is 0 for ids that do not count
HEADER = 256  # i32 in front of the ids in llm.c's files: magic, version, number of ids
# llm.c's (magic, version) of files, and the type of their ids
LLM_C = {(20240520, 1): "uint16", (20240801, 7): "uint32"}


def npy(file: Metered, reading: Reading) -> Iterator[Part]:
    """A file of NumPy's: one stream of ids that is cut behind each EOS, or a document in each row."""
    ids = _array(file)
    if ids.ndim == 1:
        yield from cut(ids, file, reading)
        return
    for number, row in enumerate(ids, start=1):
        file.take(row.nbytes)
        yield Part(number, ids=checked(row, reading.tokenizer(), f"row {number} of {file.path!r}"))


def raw(file: Metered, reading: Reading) -> Iterator[Part]:
    """A file of bare ids, or with llm.c's header: one stream, cut behind each EOS."""
    size = file.size
    head = np.frombuffer(file.raw.read(4 * HEADER), "<i4") if size >= 4 * HEADER and size % 2 == 0 else np.zeros(3, int)
    of_llm_c = LLM_C.get((int(head[0]), int(head[1])))
    dtype = np.dtype(of_llm_c or token_dtype(file.path, reading)).newbyteorder("<")
    start = 4 * HEADER if of_llm_c else 0
    if of_llm_c and size - start != int(head[2]) * dtype.itemsize:
        raise UserError(
            f"data.path: {file.path!r} has {size - start:,} bytes behind its header, which says that they are "
            f"{int(head[2]):,} ids of {dtype.itemsize} bytes: it is not whole."
        )
    if (size - start) % dtype.itemsize:
        raise UserError(
            f"data.path: {file.path!r} has {size:,} bytes, no multiple of the {dtype.itemsize} of "
            f"data.token_dtype={reading.token_dtype!r}; another type works, or the file is not whole."
        )
    yield from cut(mapped(file, dtype, start, (size - start) // dtype.itemsize), file, reading)


def cut(ids: np.ndarray, file: Metered, reading: Reading) -> Iterator[Part]:
    """The documents of one stream of ids, each up to and with an EOS; without any, all of it."""
    tokenizer = reading.tokenizer()
    file.take(ids.nbytes)
    checked(ids, tokenizer, repr(file.path))
    places = [np.flatnonzero(ids[at : at + PIECE] == tokenizer.eos) + at + 1 for at in range(0, len(ids), PIECE)]
    ends = np.concatenate([*places, [len(ids)]]).astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    some = starts < ends  # the last EOS may end the stream
    for number, (start, end) in enumerate(zip(starts[some], ends[some], strict=True), start=1):
        yield Part(number, ids=ids[start:end])


def checked(ids: np.ndarray, tokenizer: Tokenizer, where: str) -> np.ndarray:
    """The ids. Raises UserError for the first that the tokenizer does not have; where: what they are, in words."""
    for at in range(0, len(ids), PIECE):
        piece = ids[at : at + PIECE]
        if piece.min() < 0 or piece.max() >= tokenizer.vocab_size:
            first = int(np.flatnonzero((piece < 0) | (piece >= tokenizer.vocab_size))[0])
            raise UserError(
                f"data.path: {where} has token {int(piece[first])} at {at + first:,} (from 0), and "
                f"data.tokenizer={tokenizer.name!r} has {tokenizer.vocab_size:,} tokens; the one that the ids come "
                "from works."
            )
    return ids


def are_in(names: Collection[str], reading: Reading) -> bool:
    """Whether a record with these fields is one of ids: it has some, and none that the form of records reads."""
    return IDS in names and not any(name in names for name in reading.form.fields)


def of_record(number: int, record: Mapping[str, Any], where: str, reading: Reading) -> Part:
    """The document of a record of ids. where: what it is, in words. Raises Bad, and UserError as `checked`."""
    ids = _whole(record, IDS)
    counts = None if record.get(MASK) is None else _whole(record, MASK) != 0
    if counts is not None and len(counts) != len(ids):
        raise Bad(f"has {len(ids)} ids and {len(counts)} values in {MASK!r}")
    tokenizer = reading.tokenizer()
    kept = np.min_scalar_type(tokenizer.vocab_size - 1)
    return Part(number, ids=checked(ids, tokenizer, where).astype(kept), counts=counts)


def _whole(record: Mapping[str, Any], field: str) -> np.ndarray:
    """The list of whole numbers in a field, int64. JSON's are read as floats, exact up to 2^53. Raises Bad."""
    try:
        found = np.asarray(record[field], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise Bad(f"has no list of numbers in {field!r}") from error
    if found.ndim != 1 or not (np.abs(found) < 2**53).all() or (found != np.rint(found)).any():
        raise Bad(f"has no list of whole numbers in {field!r}")
    return found.astype(np.int64)


def token_dtype(path: str, reading: Reading) -> np.dtype[Any]:
    """The type of data.token_dtype, little-endian. Raises UserError where it is not set, or no type of ids."""
    if reading.token_dtype not in TYPES:
        raise UserError(
            f"data.token_dtype={reading.token_dtype!r} does not say of which type the ids in {path!r} are; 'uint16' or "
            f"'uint32' would, or another of {', '.join(TYPES)}; data.ignore=('.bin',) leaves such files out."
        )
    return np.dtype(reading.token_dtype).newbyteorder("<")


def mapped(file: Metered, dtype: np.dtype[Any], start: int, count: int) -> np.ndarray:
    """`count` numbers from byte `start` of a file on: a view of it, or read where it is not on this machine."""
    if not count:
        return np.zeros(0, dtype)
    if not remote.is_address(file.path):
        return np.memmap(file.path, dtype, "r", start, (count,))
    file.raw.seek(start)
    return np.frombuffer(file.raw.read(count * dtype.itemsize), dtype)


def _array(file: Metered) -> np.ndarray:
    """The array of a file of NumPy's. Raises UserError for one that cannot be ids."""
    try:
        if remote.is_address(file.path):
            ids = np.load(file.raw, allow_pickle=False)
        else:
            ids = np.load(file.path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise unusable(file.path, f"is not a whole .npy file of numbers ({reason})") from error
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu" or ids.ndim not in (1, 2):
        what = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, np.ndarray) else "several arrays"
        raise unusable(
            file.path, f"holds {what}; token ids are whole numbers, in one dimension or a row for each document"
        )
    return ids
