"""Vectors of documents in a file, by which a way to pack tells how alike they are. Free of jax."""

import dataclasses
import functools
import zlib
from pathlib import Path

import numpy as np

from longctx.data.packing.similarity import scaled
from longctx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """The rows of a file of NumPy's, mapped from the disk: one for each document. numbers: of the rows that are meant,
    in order; None for all. said: the setting that names the file, for messages."""

    said: str
    array: np.ndarray
    numbers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.array) if self.numbers is None else len(self.numbers)

    @functools.cached_property
    def fingerprint(self) -> int:
        """A checksum of the rows that are meant."""
        whole = zlib.crc32(np.ascontiguousarray(self.array).data.cast("B"))
        return whole if self.numbers is None else zlib.crc32(self.numbers.astype(np.int64).tobytes(), whole)

    def chosen(self, documents: np.ndarray) -> "Embeddings":
        """The embeddings of some of the documents, by their numbers; no row is read."""
        return dataclasses.replace(self, numbers=documents if self.numbers is None else self.numbers[documents])

    def features(self, documents: np.ndarray) -> np.ndarray:
        """f32 [documents, d]: what similarity.features makes of tokens. Raises UserError for a number that is not
        finite."""
        rows = documents if self.numbers is None else self.numbers[documents]
        vectors = self.array[rows].astype(np.float64)
        if not (finite := np.isfinite(vectors).all(axis=1)).all():
            raise UserError(
                f"{self.said}: row {int(rows[~finite][0]):,} (from 0) has a number that is not finite; others work."
            )
        return scaled(vectors, np.linalg.norm(vectors, axis=1, keepdims=True))

    def require(self, documents: int) -> None:
        """Raises UserError where there is not one row for each of so many documents."""
        if len(self) != documents:
            raise UserError(
                f"{self.said} has {len(self):,} rows, and there are {documents:,} training documents; one row for each "
                "works, in the order of longctx.data.load(config.data).train."
            )


def load(path: str, said: str) -> Embeddings:
    """The embeddings in a file. Raises UserError for one that cannot be read, or holds no rows of numbers."""
    try:
        array = np.load(Path(path).expanduser(), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"{said}: {path!r} cannot be read as a file of NumPy's ({reason}); np.save writes one."
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        what = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "several arrays"
        raise UserError(f"{said}: {path!r} holds {what}; floats in two dimensions work, a row for each document.")
    return Embeddings(said, array)
