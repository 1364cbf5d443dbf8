"""The files at a path that hold text, and the documents in them. Free of jax and grain: errors come at once."""

import dataclasses
import difflib
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from longctx.config import DataConfig
from longctx.data import folders, remote
from longctx.data.document import Document
from longctx.data.formats import api as formats
from longctx.data.formats import opening
from longctx.data.formats.companions import companions
from longctx.data.formats.format import Part, Reading
from longctx.data.formats.text import is_empty, why_not_utf8
from longctx.data.left_out import LeftOut, counted, plural
from longctx.data.records import api as records
from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError
from longctx.memory.sizes import free_memory, readable

# Files that hold data, and that no reader is there for: beside text they may be what was meant to be trained on. So may
# files whose format is known, but not compressed.
UNREAD = frozenset(
    """
    .orc .avro .csv .tsv .xlsx .msgpack .pkl .pickle .npz .h5 .hdf5 .tfrecord .db .sqlite .warc
    .gz .zst .zstd .xz .bz2 .lz4 .zip .tar .tgz .7z .rar""".split()
)
SKIP = frozenset({"__pycache__"})

MEMORY_PER_BYTE = 5  # of text while it becomes token ids: the text, and two copies of ids of two bytes


@dataclasses.dataclass
class Budget:
    """Bytes that may be read, or decompressed, of data.path; limit None: any number."""

    path: str
    limit: int | None
    reason: str
    taken: int = 0

    @classmethod
    def of(cls, config: DataConfig) -> "Budget":
        """data.max_bytes, or what fits into the free memory while it becomes token ids."""
        if config.max_bytes:
            return cls(config.path, config.max_bytes, f"data.max_bytes={config.max_bytes}")
        free = free_memory()
        return cls(
            config.path,
            free and free // MEMORY_PER_BYTE,
            f"{readable(free or 0)} of memory are free, and a byte of text takes {MEMORY_PER_BYTE} with its ids",
        )

    def price(self, files: list[folders.File]) -> None:
        """Raises UserError if the files that are read whole are too many bytes as they are, before any is read."""
        whole = [file for file in files if (found := formats.format_of(file.name)) and found.whole]
        self._require(sum(file.size for file in whole), f"in {plural(len(whole), 'file')}")

    def take(self, path: str, size: int) -> None:
        """Raises UserError if the bytes that were read and `size` more, of the file at `path`, are too many."""
        self.taken += size
        self._require(self.taken, f"or more, up to {path!r} decompressed")

    def _require(self, size: int, what: str) -> None:
        if self.limit is not None and size > self.limit:
            raise UserError(
                f"data.path={self.path!r} holds {readable(size)} {what}, and at most "
                f"{readable(self.limit)} can be read: {self.reason}. A part of the files works, or another "
                "data.max_bytes."
            )


def root_of(path: str) -> str:
    """What data.path names: an address as it is, or the absolute path."""
    return path if remote.is_address(path) else os.path.abspath(os.path.expanduser(path))


def files_of(root: str, config: DataConfig, left: LeftOut) -> list[folders.File]:
    """The files to be read, each once, by name."""
    found, is_folder = _found(root, config, left)
    together, describing = companions(file.name for file in found) if is_folder else (frozenset(), frozenset())
    given = lambda file: not _is_hidden(file) and not _ends_with(file.name.lower(), config.ignore)
    wanted = lambda file: not is_folder or given(file)
    chosen = {}
    for file in found:
        if wanted(file) and formats.format_of(file.name) and file.name not in together | describing:
            folders.require_readable(file)
            left.names += file.identity in chosen
            chosen.setdefault(file.identity, file)
    others = [file for file in found if file.identity not in chosen and file.name not in together]
    unread = [file for file in others if wanted(file) and _is_unread(file.name) and file.name not in describing]
    left.files = _by_kind(others)
    _require_text(root, config.path, is_folder, list(chosen.values()), unread, left)
    return sorted(chosen.values(), key=lambda file: file.name)


def _found(root: str, config: DataConfig, left: LeftOut) -> tuple[list[folders.File], bool]:
    """(all files at a path and below, whether it is a folder)."""
    if remote.is_address(root):
        found, left.folders, is_folder = remote.found(root, SKIP)
        return found, is_folder
    if not config.path or not os.path.exists(root):
        raise UserError(f"data.path={config.path!r} does not exist: there is no {root!r}.{_near(Path(root))}")
    if os.path.isdir(root):
        found, left.folders = folders.walk(root, SKIP)
        return found, True
    index = f"{root[:-4]}.idx"  # Megatron's, which says what the documents in a .bin are
    path = index if root.lower().endswith(".bin") and os.path.exists(index) else root
    return [folders.file(path, os.path.basename(path))], False


def _is_unread(name: str) -> bool:
    """Whether a file holds data that cannot be read as it is."""
    kind = formats.extension(name)
    return kind in UNREAD or kind in formats.FORMATS and not formats.format_of(name)


def _require_text(
    root: str, path: str, is_folder: bool, chosen: list, unread: list[folders.File], left: LeftOut
) -> None:
    """Raises UserError where there is no file to read, or one that may be what was meant."""
    known = formats.KNOWN
    if not chosen and not is_folder:
        raise UserError(f"data.path={path!r} has an unknown extension. {known}")
    if unread:
        kinds = _by_kind(unread)
        raise UserError(
            f"data.path={path!r} holds data that cannot be read: {counted(kinds, 'file')}, first "
            f"{unread[0].name!r}. {known} data.ignore={tuple(sorted(kinds))} leaves them out."
        )
    if not chosen:
        there = f", only {left}" if str(left) else ""
        raise UserError(f"data.path={path!r}: the folder {root!r} has no text files{there}. {known}")


def _ends_with(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a name has one of the extensions, of a compressed file before its .gz or .zst."""
    endings = tuple(ending.lower() for ending in endings)
    return name.endswith(endings) or opening.without_kind(name).endswith(endings)


def _is_hidden(file: folders.File) -> bool:
    return os.path.basename(file.name).startswith(".")


def _by_kind(files: list[folders.File]) -> Counter[str]:
    """The number of files with each extension, in words."""
    return Counter(
        "hidden" if _is_hidden(file) else formats.extension(file.name) or "without extension" for file in files
    )


def _near(root: Path) -> str:
    """A hint at a file or folder beside it whose name is nearly alike."""
    if not root.parent.is_dir() or not os.access(root.parent, os.R_OK):
        return ""
    near = difflib.get_close_matches(root.name, os.listdir(root.parent), n=1)
    return f" Did you mean {str(root.parent / near[0])!r}?" if near else ""


def documents_of(
    files: Iterable[folders.File],
    config: DataConfig,
    any_bytes: bool,
    left: LeftOut,
    tokenizer: Callable[[], Tokenizer],
    budget: Budget | None = None,
) -> Iterator[Document]:
    """Yields the documents of some files; what is left out is added to `left`.

    any_bytes: whether a text need not be UTF-8. tokenizer: gives the one of files of token ids. budget: what may be
    read; None: everything. Raises UserError as sources.load does, and for a file that changes while it is read.
    """
    reading = Reading(records.form_of(config), config.token_dtype, tokenizer)
    for file in files:
        take = functools.partial(budget.take, file.path) if budget else lambda size: None
        for part in formats.parts(file.path, reading, take, file.span):
            is_text = part.ids is None and not part.bad
            why = part.bad or (why_not_utf8(part.content.text) if is_text and not any_bytes else "")
            if why and config.bad == "stop":
                raise UserError(_said_bad(file, part, why))
            if why:
                left.add_bad(f"{_where(file.name, part)} {why}")
            elif len(part.ids) < 2 if part.ids is not None else is_empty(part.content.text):
                left.empty += 1
            else:
                yield _document(file.name, part)
        folders.require_unchanged(file)


def _said_bad(file: folders.File, part: Part, why: str) -> str:
    """What is wrong with a part, and what works."""
    works = "" if part.bad else "data.tokenizer='bytes' takes any bytes, and "
    such = f", and data.ignore=({formats.extension(file.name)!r},) all such files"
    return (
        f"data.path: {_where(file.path, part)} {why}; {works}data.bad='skip' leaves out and counts what is bad"
        f"{such if part.bad and not part.line else ''}."
    )


def _document(name: str, part: Part) -> Document:
    """The document of a part of the file with this name."""
    within, content = part.name or (str(part.line) if part.line else ""), part.content
    return Document(
        f"{name}:{within}" if within else name, content.text, part.ids, part.counts, content.asked, content.special
    )


def _where(path: str, part: Part) -> str:
    found = formats.format_of(path)
    return f"{found.unit if found else 'part'} {part.line} of {path!r}" if part.line else repr(path)
