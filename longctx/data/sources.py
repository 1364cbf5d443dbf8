"""Documents from files, split into training and held-out ones by file. Free of jax and grain: errors come at once."""

import dataclasses
import difflib
import functools
import hashlib
import math
import os
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from longctx.config import DataConfig
from longctx.data import folders, remote, tokenizers
from longctx.data.formats import api as formats
from longctx.data.formats import opening
from longctx.data.formats.companions import companions
from longctx.data.formats.format import Part, Reading
from longctx.data.formats.text import is_empty, why_not_utf8
from longctx.data.records import api as records
from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError, unknown_name
from longctx.memory.sizes import free_memory, readable

# Files that hold data, and that no reader is there for: beside text they may be what was meant to be trained on. So may
# files whose format is known, but not compressed.
UNREAD = frozenset(
    """
    .orc .avro .csv .tsv .xlsx .msgpack .pkl .pickle .npz .h5 .hdf5 .tfrecord .db .sqlite .warc
    .gz .zst .zstd .xz .bz2 .lz4 .zip .tar .tgz .7z .rar""".split()
)
SKIP = frozenset({"__pycache__"})
# Parts of the standard library that are not code: help texts, character tables, and what others installed into it.
STDLIB_SKIP = SKIP | {"site-packages", "dist-packages", "pydoc_data", "encodings", "idlelib"}

PROSE = 100_000  # bytes of a document of "pydoc": more than 20k tokens

BAD = ("stop", "skip")
MEMORY_PER_BYTE = 5  # of text while it becomes token ids: the text, and two copies of ids of two bytes
SHOWN = 3  # bad documents that a note names
KINDS = 8  # extensions that a note names


@dataclasses.dataclass(frozen=True)
class Document:
    """One text: its name (the path below data.path; of several in a file with :line, :row, ...) and its bytes, never
    empty.

    What is tokenised already has `ids` instead, int [at least two], with all special tokens that the model is to see.
    Its text is empty, or decoded from them where something reads it: see `load`. Some of it may not count in the loss:
    `counts` bool, of each id; of a text `asked`, the parts that count, each (first byte, byte after the last); None:
    all of it. special: the text of a special token is that token, as in what a chat template writes.
    """

    name: str
    text: bytes = b""
    ids: np.ndarray | None = None
    counts: np.ndarray | None = None
    asked: tuple[tuple[int, int], ...] | None = None
    special: bool = False


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Training and held-out documents, each sorted by file name, from `root`. All of the text is held in memory.

    notes: a line for people about everything that was found and left out; none if that is nothing.
    """

    root: str
    train: tuple[Document, ...]
    held_out: tuple[Document, ...]
    notes: tuple[str, ...] = ()


class NoSplit(UserError):
    """The documents there are cannot be split as data.holdout says."""


@dataclasses.dataclass
class LeftOut:
    """What was found and is not in the corpus. As a str: all of it in one line, "" for nothing.

    files: by extension; folders: by name; names: other ones of files that are in it; empty, bad: documents; first_bad:
    a sentence about each of the first bad ones.
    """

    files: Counter[str] = dataclasses.field(default_factory=Counter)
    folders: Counter[str] = dataclasses.field(default_factory=Counter)
    names: int = 0
    empty: int = 0
    bad: int = 0
    first_bad: list[str] = dataclasses.field(default_factory=list)

    def add_bad(self, sentence: str) -> None:
        """One more bad document."""
        self.bad += 1
        self.first_bad += [sentence] if self.bad <= SHOWN else []

    def __str__(self):
        parts = [
            _counted(self.files, "file"),
            _counted(self.folders, "folder"),
            _plural(self.names, "other name") + " of files that are read" if self.names else "",
            _plural(self.empty, "empty document") if self.empty else "",
        ]
        if self.bad:
            more = f"; and {self.bad - SHOWN:,} more" if self.bad > SHOWN else ""
            parts.append(f"{_plural(self.bad, 'bad document')} ({'; '.join(self.first_bad)}{more})")
        return ", ".join(filter(None, parts))


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
        self._require(sum(file.size for file in whole), f"in {_plural(len(whole), 'file')}")

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


def load(config: DataConfig, tokenizer: Tokenizer | None = None) -> Corpus:
    """Reads config.path and splits its documents by the md5 of their names: equal names fall on the same side anywhere.

    "stdlib" is the library of the running Python: its .py files in UTF-8, without installed packages and tables;
    "pydoc" the prose that comes with it, the reference of the language, in long documents. (A folder of that name is
    "./stdlib".) Any other path is a file, or a folder that is searched recursively, links followed, or an address of
    such as longctx.data.remote.DRIVERS knows. A source of a single document is cut in two: its last `holdout` share is
    held out.

    tokenizer: of files of token ids; None: the one that config names, loaded if there are such files. Held-out
    documents that are ids are decoded, since evaluations read text, and with config.generated, whose tasks do too, all
    are: once, here.

    Left out and counted in `notes`: hidden files and folders, files with an extension that no reader knows or that
    config.ignore ends with, files that only describe others, other names of a file, empty documents (of ids: those of
    fewer than two), and with config.bad="skip" bad ones.

    Raises UserError for a path that is missing, holds no text or cannot be read; for files in UNREAD that config.ignore
    does not name; for a bad document (see longctx.data.formats; with a tokenizer.json also one that is not UTF-8) if
    config.bad="stop"; for token ids that the tokenizer does not have; for a table without the column of the text; for
    more text than config.max_bytes, or than fits into memory; and for a holdout without a split
    (NoSplit).
    """
    _check(config)
    left, given = LeftOut(), functools.cache(lambda: tokenizer or tokenizers.of(config))
    if config.path in LIBRARY:
        root = sysconfig.get_path("stdlib")
        documents = list(LIBRARY[config.path](root, config, left))
    else:
        address = remote.is_address(config.path)
        root = config.path if address else os.path.abspath(os.path.expanduser(config.path))
        documents = list(_documents(_files(root, config, left), config, config.tokenizer == "bytes", left, given))
    note = f"left out of data.path={config.path!r}: {left}" if str(left) else ""
    if not documents:
        raise UserError(
            f"data.path={config.path!r} holds no text: there is no document in {root!r}{f' ({note})' if note else ''}."
        )
    train, held_out = _split(documents, config.holdout)
    texts = lambda some: tuple(document if document.ids is None else _decoded(document, given()) for document in some)
    return Corpus(root, texts(train) if config.generated else train, texts(held_out), (note,) if note else ())


def _decoded(document: Document, tokenizer: Tokenizer) -> Document:
    """A document that is ids, with its text: a space where that is empty, since nothing that reads texts expects so."""
    return dataclasses.replace(document, text=tokenizer.decode(document.ids).encode() or b" ")


def _code(root: str, config: DataConfig, left: LeftOut) -> Iterator[Document]:
    """The files of the library that are Python in UTF-8."""
    files = [file for file in folders.walk(root, STDLIB_SKIP)[0] if file.name.endswith(".py")]
    # Some of the library's own tests are in other encodings on purpose; a tokenizer.json could not take them.
    return _documents(files, dataclasses.replace(config, bad="skip"), False, left)


def _prose(root: str, config: DataConfig, left: LeftOut) -> Iterator[Document]:
    """The topics of the reference by name, joined to documents of at least PROSE bytes each.

    Topics that are parts of others are left out: met again, they would be copied rather than predicted.
    """
    from pydoc_data.topics import topics  # nothing else needs its half a megabyte

    within = lambda text: any(text[len(text) // 2 :].strip() in other for other in topics.values() if other != text)
    texts, count = [text.encode() for _, text in sorted(topics.items()) if not within(text)], 0
    while texts:
        size, end = 0, 0
        while end < len(texts) and (size < PROSE or sum(map(len, texts[end:])) < PROSE):
            size, end = size + len(texts[end]), end + 1
        count += 1
        yield Document(f"pydoc/{count}", b"\n".join(texts[:end]))
        texts = texts[end:]


# what data.path may name of the running Python: (root, settings, what is left out) -> documents
LIBRARY = {"stdlib": _code, "pydoc": _prose}


def _check(config: DataConfig) -> None:
    if not 0 < config.holdout <= 1:
        raise UserError(
            f"data.holdout={config.holdout} must be above 0 and at most 1; 0.1 keeps a tenth for evaluation, and 1 all "
            "of it, for a model that is not trained on it."
        )
    if config.bad not in BAD:
        raise unknown_name("data.bad", config.bad, BAD)
    if config.max_bytes < 0:
        raise UserError(f"data.max_bytes={config.max_bytes} must be at least 0; 0 reads what fits into memory.")
    for i, ending in enumerate(config.ignore):
        if not ending.startswith("."):
            raise UserError(f"data.ignore[{i}]={ending!r} must be an extension with its dot, such as '.json'.")


def _files(root: str, config: DataConfig, left: LeftOut) -> list[folders.File]:
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
            f"data.path={path!r} holds data that cannot be read: {_counted(kinds, 'file')}, first "
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


def _documents(
    files: list[folders.File],
    config: DataConfig,
    any_bytes: bool,
    left: LeftOut,
    tokenizer: Callable[[], Tokenizer] | None = None,
) -> Iterator[Document]:
    budget = Budget.of(config)
    reading = Reading(records.form_of(config), config.token_dtype, tokenizer or (lambda: tokenizers.of(config)))
    budget.price(files)
    for file in files:
        for part in formats.parts(file.path, reading, functools.partial(budget.take, file.path)):
            is_text = part.ids is None and not part.bad
            why = part.bad or (why_not_utf8(part.content.text) if is_text and not any_bytes else "")
            if why and config.bad == "stop":
                works = "" if part.bad else "data.tokenizer='bytes' takes any bytes, and "
                kind = formats.extension(file.name)
                files = f", and data.ignore=({kind!r},) all such files" if part.bad and not part.line else ""
                raise UserError(
                    f"data.path: {_where(file.path, part)} {why}; {works}data.bad='skip' leaves out and "
                    f"counts what is bad{files}."
                )
            if why:
                left.add_bad(f"{_where(file.name, part)} {why}")
            elif len(part.ids) < 2 if part.ids is not None else is_empty(part.content.text):
                left.empty += 1
            else:
                yield _document(file.name, part)


def _document(name: str, part: Part) -> Document:
    """The document of a part of the file with this name."""
    within, content = part.name or (str(part.line) if part.line else ""), part.content
    return Document(
        f"{name}:{within}" if within else name, content.text, part.ids, part.counts, content.asked, content.special
    )


def _where(path: str, part: Part) -> str:
    found = formats.format_of(path)
    return f"{found.unit if found else 'part'} {part.line} of {path!r}" if part.line else repr(path)


def _counted(counts: Counter[str], what: str) -> str:
    """For example "12 files (8 .png, 4 .json)", the most frequent first."""
    common = [f"{count:,} {name}" for name, count in counts.most_common(KINDS)]
    more = [f"{len(counts) - KINDS} other kinds"] if len(counts) > KINDS else []
    return f"{_plural(counts.total(), what)} ({', '.join(common + more)})" if counts else ""


def _plural(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("s" if count != 1 else "")


def _split(documents: list[Document], holdout: float) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    if holdout == 1:
        return (), tuple(documents)
    if len(documents) == 1:
        return _cut(documents[0], holdout)
    places = [_place(document.name) for document in documents]  # a document is held out if its place < holdout
    train = tuple(d for d, place in zip(documents, places, strict=True) if place >= holdout)
    held_out = tuple(d for d, place in zip(documents, places, strict=True) if place < holdout)
    given = f"data.holdout={holdout} holds out"
    if not held_out:
        works = math.ceil(1000 * min(places) + 1) / 1000
        raise NoSplit(f"{given} none of the {len(documents)} documents; {works} holds out one.")
    if not train:
        works = math.floor(1000 * max(places)) / 1000
        raise NoSplit(f"{given} all of the {len(documents)} documents; {works} leaves one to train on.")
    return train, held_out


def _place(name: str) -> float:
    """A number in [0, 1) that depends on the name only."""
    digest = hashlib.md5(name.encode("utf-8", "surrogateescape"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4]) / 2**32


def _cut(document: Document, holdout: float) -> tuple[tuple[Document], tuple[Document]]:
    if document.asked is not None or document.special:
        raise NoSplit(
            f"data.path holds a single document, {document.name!r}, with parts that count, which is not cut in two; "
            "another one is needed for evaluation, or data.holdout=1.0 holds it out."
        )
    text, ids = document.text, document.ids
    size, least, what = (len(text), 1, "byte of text") if ids is None else (len(ids), 2, "document of token ids")
    if size < 2 * least:
        short = "" if ids is None else f", of {size}"
        raise UserError(f"data.path holds a single {what}{short}; training and evaluation need at least {least} each.")
    at = min(max(round(size * (1 - holdout)), least), size - least)
    while ids is None and at > 1 and text[at] & 0xC0 == 0x80:  # inside a UTF-8 character
        at -= 1
    return (_piece(document, "start", slice(at)),), (_piece(document, "end", slice(at, None)),)


def _piece(document: Document, name: str, where: slice) -> Document:
    """A piece of a document, of its bytes or of its ids."""
    name, ids, counts = f"{document.name} ({name})", document.ids, document.counts
    if ids is None:
        return Document(name, document.text[where])
    return dataclasses.replace(document, name=name, ids=ids[where], counts=None if counts is None else counts[where])
