"""Token ids as Megatron-LM keeps them: X.idx, which says where each sequence lies in X.bin, and what a document is.

The index, little-endian: 9 bytes of magic, u64 version, u8 type of the ids, u64 sequences, u64 entries of the document
index; i32 lengths[sequences] in ids, i64 pointers[sequences] in bytes, i64 document_index[entries]. Document d is the
sequences document_index[d] to document_index[d + 1] - 1.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from longctx.data.formats import opening
from longctx.data.formats.format import Metered, Part, Reading, unusable
from longctx.data.formats.tokens import checked, mapped
from longctx.errors import UserError

MAGIC, VERSION = b"MMIDIDX\x00\x00", 1
HEAD = len(MAGIC) + 8 + 1 + 8 + 8  # bytes in front of the lengths
TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # of ids, by their code


class Index(NamedTuple):
    """The content of a .idx: the type of the ids, and the arrays of the same names, see above."""

    dtype: np.dtype
    lengths: np.ndarray
    pointers: np.ndarray
    documents: np.ndarray


def documents(file: Metered, reading: Reading) -> Iterator[Part]:
    """The documents of a .idx and the .bin beside it. Raises UserError where the two cannot be a pair."""
    index, path = parsed(file.whole(), file.path), file.path[: -len(".idx")] + ".bin"
    try:
        raw = opening.opened(path)
    except FileNotFoundError as error:
        raise unusable(file.path, f"has no {path!r} beside it, which holds its ids") from error
    with raw:
        ids = Metered(raw, file.take, path)
        size = ids.size
        ends = index.pointers + index.lengths.astype(np.int64) * index.dtype.itemsize
        odd = np.flatnonzero((index.pointers < 0) | (index.pointers % index.dtype.itemsize != 0) | (ends > size))
        if odd.size:
            raise UserError(
                f"data.path: {file.path!r} has sequence {odd[0]} at bytes {index.pointers[odd[0]]:,} to "
                f"{ends[odd[0]]:,} of {path!r}, which has {size:,}: they are no pair, or one of them is not whole."
            )
        flat = mapped(ids, index.dtype, 0, size // index.dtype.itemsize)
        yield from _documents(index, flat, file, reading)


def parsed(data: bytes, path: str) -> Index:
    """The index in the bytes of a .idx. Raises UserError for what is none."""
    wrong = lambda what: unusable(path, f"is not an index of Megatron-LM: {what}")
    if len(data) < HEAD or not data.startswith(MAGIC):
        raise wrong(f"it does not begin with {MAGIC!r} and {HEAD - len(MAGIC)} bytes more")
    version, code = int.from_bytes(data[9:17], "little"), data[17]
    if version != VERSION:
        raise wrong(f"its version is {version}, and {VERSION} is known")
    if code not in TYPES:
        raise wrong(f"its type of ids is {code}; known are {', '.join(map(str, TYPES))}, whole numbers")
    sequences, entries = (int.from_bytes(data[at : at + 8], "little") for at in (18, 26))
    size = HEAD + 12 * sequences + 8 * entries
    if len(data) != size:
        raise wrong(f"{sequences:,} sequences and {entries:,} entries take {size:,} bytes, and it has {len(data):,}")
    pointers, at = HEAD + 4 * sequences, HEAD + 12 * sequences
    index = Index(
        np.dtype(TYPES[code]),
        np.frombuffer(data[HEAD:pointers], "<i4"),
        np.frombuffer(data[pointers:at], "<i8"),
        np.frombuffer(data[at:], "<i8"),
    )
    if index.lengths.min(initial=0) < 0:
        raise wrong(f"the length of sequence {int(np.argmin(index.lengths))} is below 0")
    around = np.concatenate([[0], index.documents, [sequences]])
    if (np.diff(around) < 0).any() or (entries and (around[1] != 0 or around[-2] != sequences)):
        raise wrong(f"its documents do not go from sequence 0 to {sequences:,} in order")
    return index


def _documents(index: Index, flat: np.ndarray, file: Metered, reading: Reading) -> Iterator[Part]:
    tokenizer, starts = reading.tokenizer(), index.pointers // index.dtype.itemsize
    for number, (first, end) in enumerate(zip(index.documents[:-1], index.documents[1:], strict=True), start=1):
        pieces = [flat[at : at + size] for at, size in zip(starts[first:end], index.lengths[first:end], strict=True)]
        ids = pieces[0] if len(pieces) == 1 else np.concatenate([flat[:0], *pieces])
        file.take(ids.nbytes)
        yield Part(number, ids=checked(ids, tokenizer, f"document {number} of {file.path!r}"))
