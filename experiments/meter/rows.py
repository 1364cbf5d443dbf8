"""How evenly a config's layout spreads attention over context shards: over rows of its data, or of drawn lengths."""

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
from longctx.data import packing, pipeline, rows, sources, tokenizers
from longctx.data.curriculum import Stage
from longctx.data.pipeline import Batch
from longctx.errors import unknown_name
from longctx.positions import view

DATA, DOCUMENT = "data", "document"
LENGTHS = DATA, DOCUMENT, *KINDS
BATCHES = 2
_BLOCKS = 4096  # of a row, at most; otherwise blocks of 256 tokens


def check(lengths: str) -> None:
    """Raises UserError for a name that is not in LENGTHS."""
    if lengths not in LENGTHS:
        raise unknown_name("--lengths", lengths, LENGTHS)


def measured(config: Config, stage: Stage, batches: Iterable[Batch]) -> Balance | None:
    """The mean over the data-parallel ranks of a few batches; None where some layer lets tokens see later ones."""
    if any(view.resolve(kind)[1].reach()[0] < 0 for kind in config.model.kinds):
        return None
    ranks, shards = config.mesh.data * config.mesh.fsdp, config.mesh.context_shards
    seen, found = view.reaches(config.model), []
    block = math.gcd(stage.seq_len // shards, max(256, 2 ** math.ceil(math.log2(stage.seq_len / _BLOCKS))))
    for batch in itertools.islice(batches, BATCHES):
        laid = layouts.lay_out(
            {name: batch[name] for name in ("positions", "segments")}, config.attention.layout, shards, seen
        )
        for positions, segments in zip(
            *(np.split(laid[name], ranks) for name in ("positions", "segments")), strict=True
        ):
            found.append(balance.measure(positions, segments, shards, seen, block))
    mean = lambda name: statistics.fmean(getattr(one, name) for one in found)
    return Balance(**{field.name: mean(field.name) for field in dataclasses.fields(Balance)})


def of_lengths(config: Config, stage: Stage, lengths: str) -> Iterator[Batch]:
    """Batches of documents so long: of the config's data, which is read, of one a row, or drawn.

    lengths: in LENGTHS. Raises UserError for data that cannot be read.
    """
    if lengths == DATA:
        corpus, tokenizer = sources.load(config.data), tokenizers.of(config.data)
        for line in corpus.notes:
            print(line, file=sys.stderr, flush=True)
        return of_text(config, stage, rows.tokenize(corpus.train, tokenizer), corpus, tokenizer)
    whole = functools.partial(documents, lengths) if lengths in KINDS else lambda tokens, seed: [tokens]
    return _drawn(config, stage, whole)


def of_text(config: Config, stage: Stage, text, corpus, tokenizer) -> Iterator[Batch]:
    """The batches that training sees, before they are laid out. text: the table of corpus.train."""
    packed = pipeline.stage_rows(text, corpus.train, tokenizer, stage, config.data, config.seed)
    work, ranks = packed.work(view.reaches(config.model)), config.mesh.data * config.mesh.fsdp
    return pipeline.BatchStream(
        packed, stage, config.seed, prefetch=0, arrange=lambda numbers: packing.finish_together(numbers, work, ranks)
    )


def _drawn(config, stage, lengths):
    """lengths: (tokens of a row, seed) -> those of its documents."""
    for first in itertools.count(config.seed, stage.batch_size):
        drawn = [row(lengths(stage.seq_len, seed)) for seed in range(first, first + stage.batch_size)]
        yield {name: np.concatenate([one[name] for one in drawn]) for name in drawn[0]}
