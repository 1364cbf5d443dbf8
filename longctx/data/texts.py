"""The text of a run, of data.path or of the sources of data.mix: read, then tokenised. Free of jax and grain."""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from longctx.config import DataConfig, SourceConfig
from longctx.data import rows, selecting, sources
from longctx.data.document import Document
from longctx.data.packing import api as packing
from longctx.data.sources import Corpus
from longctx.data.tokenizers import Tokenizer
from longctx.data.views import Lazy, Some
from longctx.errors import UserError

TEXT = "text"  # the name of the one source of data.path


def named(config: DataConfig) -> dict[str, DataConfig]:
    """The settings of each source by name, as if it were the only one."""
    if not config.mix:
        return {TEXT: config}
    return {source.name: _alone(config, source) for source in config.mix}


def _alone(config: DataConfig, source: SourceConfig) -> DataConfig:
    own = {name: getattr(source, name) for name in ("path", "packing", "records", "text_field")}
    chosen = {name: getattr(source, name) for name in ("shortest", "longest", "scores", "keep")}
    return dataclasses.replace(config, mix=(), **{name: value for name, value in own.items() if value}, **chosen)


@dataclasses.dataclass(frozen=True)
class Corpora:
    """The documents of every source, by its name."""

    of: Mapping[str, Corpus]

    @property
    def train(self) -> Sequence[Document]:
        """The training documents of all sources."""
        return Joined({name: corpus.train for name, corpus in self.of.items()})

    @property
    def held_out(self) -> Sequence[Document]:
        """The held-out documents of all sources; of several, named "source/document"."""
        return Joined({name: corpus.held_out for name, corpus in self.of.items()})

    @property
    def read(self) -> list[Document]:
        """All documents but those of stores, whose texts no tokenizer reads again."""
        corpora = [corpus for corpus in self.of.values() if corpus.table is None]
        return [document for corpus in corpora for side in (corpus.train, corpus.held_out) for document in side]

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for people about what was found and left out."""
        return tuple(itertools.chain.from_iterable(corpus.notes for corpus in self.of.values()))


class Joined(Lazy[Document]):
    """The documents of several sources one after another; of more than one, named "source/document"."""

    def __init__(self, of: Mapping[str, Sequence[Document]]):
        self._names, self._sides = [*of], [*of.values()]
        self._ends = np.cumsum([len(side) for side in self._sides])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def item(self, index: int) -> Document:
        source = int(np.searchsorted(self._ends, index, side="right"))
        document = self._sides[source][index - int(self._ends[source]) + len(self._sides[source])]
        if len(self._names) == 1:
            return document
        return dataclasses.replace(document, name=f"{self._names[source]}/{document.name}")


def load(config: DataConfig, tokenizer: Tokenizer | None = None) -> Corpora:
    """Reads every source. Raises UserError as sources.load does; tokenizer: see there."""
    return Corpora({name: sources.load(own, tokenizer) for name, own in named(config).items()})


@dataclasses.dataclass(frozen=True)
class Text:
    """A source, tokenised: its training documents, the table of their tokens, and a name in PACKINGS."""

    documents: Sequence[Document]
    table: rows.TokenTable
    packing: str


@dataclasses.dataclass(frozen=True)
class Texts:
    """The sources of a run by name, tokenised. notes: lines for people about documents that were left out."""

    of: Mapping[str, Text]
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> int:
        """A checksum of all tables; of one source, its own."""
        first, *others = (text.table.fingerprint for text in self.of.values())
        return zlib.crc32(b"".join(number.to_bytes(8, "little") for number in others), first)

    @functools.cached_property
    def documents(self) -> Sequence[Document]:
        """The training documents of all sources."""
        return Joined({name: text.documents for name, text in self.of.items()})

    @property
    def tokens(self) -> int:
        """What can be fed: all tokens that predict a next one."""
        return sum(int(text.table.inputs.sum()) for text in self.of.values())

    @property
    def lengths(self) -> np.ndarray:
        """i64: the tokens of every training document that predict a next one."""
        return np.concatenate([text.table.inputs for text in self.of.values()])


def tokenize(corpora: Corpora, config: DataConfig, tokenizer: Tokenizer) -> Texts:
    """The training documents of every source as tokens, those of a length that its settings leave out left out.

    Raises UserError for a document that the tokenizer cannot take, and where no document of a source is left.
    """
    texts, notes = {}, []
    for name, own in named(config).items():
        corpus = corpora.of[name]
        table = rows.tokenize(corpus.train, tokenizer) if corpus.table is None else corpus.table
        way, embeddings = packing.parse(own.packing)
        if embeddings is not None:
            embeddings.require(len(table.inputs))
        text = Text(corpus.train, dataclasses.replace(table, embeddings=embeddings), way)
        text, of_lengths = _of_lengths(text, own)
        texts[name], of_scores = _of_scores(text, own)
        notes += [f"{own.path}: {said}" for said in (of_lengths, of_scores) if said]
    return Texts(texts, tuple(notes))


def _of_lengths(text: Text, config: DataConfig) -> tuple[Text, str]:
    """(the documents whose length the settings allow, a sentence about the others)."""
    lengths = text.table.inputs
    keep = (lengths >= config.shortest) & (lengths <= (config.longest or np.inf))
    if keep.all():
        return text, ""
    limits = f"shortest={config.shortest:,} and longest={config.longest or 'any'}"
    if not keep.any():
        raise UserError(
            f"data.path={config.path!r}: {limits} leave out all {len(keep):,} documents, of {lengths.min():,} to "
            f"{lengths.max():,} tokens."
        )
    return _only(text, keep, limits)


def _of_scores(text: Text, config: DataConfig) -> tuple[Text, str]:
    """(the documents with the best scores, a sentence about the others)."""
    if config.keep == 1:
        return text, ""
    keep = selecting.kept(text.table.names, text.table.inputs, config)
    return _only(text, keep, f"keep={config.keep:g} of {config.scores!r}")


def _only(text: Text, keep: np.ndarray, why: str) -> tuple[Text, str]:
    """(some documents, a sentence about the others)."""
    lengths, chosen = text.table.inputs, np.flatnonzero(keep)
    said = f"left out by {why}: {len(keep) - len(chosen):,} documents of {lengths[~keep].sum():,} tokens"
    return dataclasses.replace(text, documents=Some(text.documents, chosen), table=text.table.chosen(chosen)), said
