"""Documents from files, split into training and held-out ones by file. Free of jax and grain: errors come at once."""

import dataclasses
import functools
import math
import sysconfig
from collections.abc import Iterator, Sequence

import numpy as np

from longctx.config import DataConfig
from longctx.data import folders, reading, store, tokenizers
from longctx.data.document import Document, place
from longctx.data.left_out import LeftOut
from longctx.data.rows import TokenTable
from longctx.data.tokenizers import Tokenizer
from longctx.data.views import Lazy
from longctx.errors import UserError, unknown_name

# Parts of the standard library that are not code: help texts, character tables, and what others installed into it.
STDLIB_SKIP = reading.SKIP | {"site-packages", "dist-packages", "pydoc_data", "encodings", "idlelib"}

PROSE = 100_000  # bytes of a document of "pydoc": more than 20k tokens

BAD = ("stop", "skip")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Training and held-out documents, each sorted by file name, from `root`.

    All of the text is held in memory, but for that of a store (longctx.data.store). notes: a line for people about
    everything that was found and left out; none if that is nothing. table: of the training documents, where they are
    tokenised already.
    """

    root: str
    train: Sequence[Document]
    held_out: Sequence[Document]
    notes: tuple[str, ...] = ()
    table: TokenTable | None = None


class NoSplit(UserError):
    """The documents there are cannot be split as data.holdout says."""


def load(config: DataConfig, tokenizer: Tokenizer | None = None) -> Corpus:
    """Reads config.path and splits its documents by the md5 of their names: equal names fall on the same side anywhere.

    "stdlib" is the library of the running Python: its .py files in UTF-8, without installed packages and tables;
    "pydoc" the prose that comes with it, the reference of the language, in long documents. (A folder of that name is
    "./stdlib".) Any other path is a file, or a folder that is searched recursively, links followed, or an address of
    such as longctx.data.remote.DRIVERS knows; or the folder of a store that experiments.tokenize has made. A source of
    a single document is cut in two: its last `holdout` share is held out.

    tokenizer: of files of token ids; None: the one that config names, loaded if there are such files. Held-out
    documents that are ids are decoded, since questions are asked about text, and with config.generated, whose tasks
    read text too, all are: once, here. Special tokens, such as those of a chat template, are not in that text, whose
    readers would take their names for words; losses are of the ids themselves (longctx.evals.batches.long_document).

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
        root = reading.root_of(config.path)
        if store.is_store(root):
            return _stored(root, config, given())
        files = reading.files_of(root, config, left)
        budget = reading.Budget.of(config)
        budget.price(files)
        any_bytes = config.tokenizer == "bytes"
        documents = list(reading.documents_of(files, config, any_bytes, left, given, budget))
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
    skipping = dataclasses.replace(config, bad="skip")
    return reading.documents_of(files, skipping, False, left, lambda: tokenizers.of(config), reading.Budget.of(config))


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


def _split(documents: list[Document], holdout: float) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    if len(documents) == 1 and holdout < 1:
        return _cut(documents[0], holdout)
    held_out = _held_out(np.array([place(document.name) for document in documents]), holdout)
    sides = [], []
    for document, held in zip(documents, held_out.tolist(), strict=True):
        sides[held].append(document)
    return tuple(sides[0]), tuple(sides[1])


def _held_out(places: np.ndarray, holdout: float) -> np.ndarray:
    """bool[documents]: which of them are held out, by their places. Raises NoSplit where one side is empty."""
    held_out, given = places < holdout, f"data.holdout={holdout} holds out"
    if not held_out.any():
        works = math.ceil(1000 * places.min() + 1) / 1000
        raise NoSplit(f"{given} none of the {len(places)} documents; {works} holds out one.")
    if held_out.all() and holdout < 1:
        works = math.floor(1000 * places.max()) / 1000
        raise NoSplit(f"{given} all of the {len(places)} documents; {works} leaves one to train on.")
    return held_out


def _stored(root: str, config: DataConfig, tokenizer: Tokenizer) -> Corpus:
    """The documents of a store. Its documents are decoded when they are asked for, its tokens mapped from the disk."""
    opened = store.open_store(root, tokenizer)
    table = opened.table
    if not len(table.inputs):
        raise UserError(f"data.path={config.path!r} holds no text: no document is in the store.")
    if len(table.inputs) == 1 and config.holdout < 1:
        size = int(table.inputs[0]) + 1
        if size < 4:
            raise UserError(f"data.path={config.path!r} holds a single document of {size} tokens; 4 can be split.")
        at = min(max(round(size * (1 - config.holdout)), 2), size - 2)
        sides = [
            dataclasses.replace(table, starts=table.starts + start, inputs=np.array([inputs]))
            for start, inputs in ((0, at - 1), (at, size - at - 1))
        ]
    else:
        held_out = _held_out(opened.places, config.holdout)
        sides = [table.chosen(np.flatnonzero(side)) for side in (~held_out, held_out)]
    train, held = (Decoded(side, tokenizer) for side in sides)
    return Corpus(root, train, held, opened.notes, sides[0])


class Decoded(Lazy[Document]):
    """The documents of a table of tokens, each with its text, which is decoded when it is asked for."""

    def __init__(self, table: TokenTable, tokenizer: Tokenizer):
        self._table, self._tokenizer = table, tokenizer

    def __len__(self) -> int:
        return len(self._table.inputs)

    def item(self, index: int) -> Document:
        start = self._table.starts[index]
        tokens = slice(start, start + self._table.inputs[index] + 1)
        counts = None if self._table.counts is None else np.asarray(self._table.counts[tokens])
        return _decoded(
            Document(self._table.names[index], ids=np.asarray(self._table.ids[tokens]), counts=counts), self._tokenizer
        )


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
