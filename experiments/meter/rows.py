"""The balance of attention over context shards under a config's layout, on rows of its data or of drawn lengths."""

import dataclasses
import functools
import itertools
import math
import statistics
import sys
from collections.abc import Iterable, Iterator

import numpy as np

from experiments.meter.lengths import KINDS, documents, row
from longctx import balance, layouts
from longctx.balance import Balance
from longctx.config import Config
from longctx.data import pipeline, texts, tokenizers
from longctx.data.curriculum import Stage
from longctx.data.joining import joined
from longctx.data.pipeline import Batch
from longctx.data.texts import Texts
from longctx.errors import unknown_name
from longctx.positions import view

DATA, DOCUMENT = "data", "document"
LENGTHS = DATA, DOCUMENT, *KINDS
BATCHES = 2
_BLOCKS = 4096  # the most blocks of a row; otherwise blocks have 256 tokens


def check(lengths: str) -> None:
    """Raises UserError for a name that is not in LENGTHS."""
    if lengths not in LENGTHS:
        raise unknown_name("--lengths", lengths, LENGTHS)


def measured(config: Config, stage: Stage, batches: Iterable[Batch]) -> Balance | None:
    """The mean Balance over the data-parallel ranks of BATCHES batches; None where a mask shows tokens later ones."""
    if any(view.resolve(kind)[1].reach()[0] < 0 for kind in config.model.kinds):
        return None
    ranks, shards = config.mesh.data * config.mesh.fsdp, config.mesh.context_shards
    reaches, balances = view.reaches(config.model), []
    length = stage.shape[1]
    block = math.gcd(length // shards, max(256, 2 ** math.ceil(math.log2(length / _BLOCKS))))
    for batch in itertools.islice(batches, BATCHES):
        batch = joined({name: batch[name] for name in ("positions", "segments")}, stage.joined)
        laid = layouts.lay_out(batch, config.attention.layout, shards, reaches)
        for positions, segments in zip(
            *(np.split(laid[name], ranks) for name in ("positions", "segments")), strict=True
        ):
            balances.append(balance.measure(positions, segments, shards, reaches, block))
    mean = lambda name: statistics.fmean(getattr(measured, name) for measured in balances)
    return Balance(**{field.name: mean(field.name) for field in dataclasses.fields(Balance)})


def of_lengths(config: Config, stage: Stage, lengths: str) -> Iterator[Batch]:
    """Batches of a stage before they are laid out.

    lengths: a name in LENGTHS: "data", the documents of config.data; "document", one per row; else drawn lengths.
    Raises UserError for data that cannot be read.
    """
    if lengths == DATA:
        tokenizer = tokenizers.of(config.data)
        corpora = texts.load(config.data, tokenizer)
        read = texts.tokenize(corpora, config.data, tokenizer)
        for line in corpora.notes + read.notes:
            print(line, file=sys.stderr, flush=True)
        return of_text(config, stage, read, tokenizer)
    draw = functools.partial(documents, lengths) if lengths in KINDS else lambda tokens, seed: [tokens]
    return _drawn(config, stage, draw)


def of_text(config: Config, stage: Stage, texts: Texts, tokenizer) -> Iterator[Batch]:
    """The batches of training, before they are laid out."""
    packed = pipeline.stage_rows(texts, tokenizer, stage, config.data, config.seed)
    arrange = pipeline.dealt(packed, view.reaches(config.model), config.mesh.data * config.mesh.fsdp)
    return pipeline.BatchStream(packed, stage, config.seed, prefetch=0, arrange=arrange)


def _drawn(config, stage, draw):
    """Yields batches whose rows have documents of the lengths draw(tokens of a row, seed)."""
    for first in itertools.count(config.seed, stage.batch_size):
        drawn = [row(draw(stage.seq_len, seed)) for seed in range(first, first + stage.batch_size)]
        yield {name: np.concatenate([batch[name] for batch in drawn]) for name in drawn[0]}
