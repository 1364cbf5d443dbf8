"""How evenly a config's layout spreads attention over context shards: over rows of its data, or of drawn lengths."""
import dataclasses
import itertools
import math
import statistics

import numpy as np

from experiments.bench_balance import KINDS, documents, row
from longctx import balance, layouts
from longctx.balance import Balance
from longctx.config import Config
from longctx.data import packing, pipeline, rows, sources, tokenizers
from longctx.data.curriculum import Stage
from longctx.errors import unknown_name
from longctx.positions import view

DATA = "data"
BATCHES = 2
_BLOCKS = 4096                          # of a row, at most; otherwise blocks of 256 tokens


def check(lengths: str) -> None:
    """Raises UserError for a name that is neither DATA nor in bench_balance.KINDS."""
    if lengths not in (DATA, *KINDS):
        raise unknown_name("--lengths", lengths, (DATA, *KINDS))


def measured(config: Config, stage: Stage, lengths: str) -> Balance | None:
    """The mean over the data-parallel ranks of a few batches; None where some layer lets tokens see later ones.

    lengths: as `check` has it. Raises UserError for data that cannot be read.
    """
    if any(view.resolve(kind)[1].reach()[0] < 0 for kind in config.model.kinds):
        return None
    batches, shards = _packed if lengths == DATA else _drawn, config.mesh.context_shards
    ranks, seen, found = config.mesh.data * config.mesh.fsdp, view.reaches(config.model), []
    block = math.gcd(stage.seq_len // shards, max(256, 2 ** math.ceil(math.log2(stage.seq_len / _BLOCKS))))
    for batch in itertools.islice(batches(config, stage, lengths), BATCHES):
        laid = layouts.lay_out({name: batch[name] for name in ("positions", "segments")}, config.attention.layout,
                               shards, seen)
        for positions, segments in zip(*(np.split(laid[name], ranks) for name in ("positions", "segments")),
                                       strict=True):
            found.append(balance.measure(positions, segments, shards, seen, block))
    mean = lambda name: statistics.fmean(getattr(one, name) for one in found)
    return Balance(**{field.name: mean(field.name) for field in dataclasses.fields(Balance)})


def _packed(config, stage, lengths):
    """The first batches that training would see."""
    corpus, tokenizer = sources.load(config.data), tokenizers.load(config.data.tokenizer)
    text = rows.tokenize(corpus.train, tokenizer)
    packed = pipeline.stage_rows(text, corpus.train, tokenizer, stage, config.data, config.seed)
    work, ranks = packed.work(view.reaches(config.model)), config.mesh.data * config.mesh.fsdp
    return pipeline.BatchStream(packed, stage, config.seed, prefetch=0,
                                arrange=lambda numbers: packing.finish_together(numbers, work, ranks))


def _drawn(config, stage, lengths):
    for first in itertools.count(config.seed, stage.batch_size):
        drawn = [row(documents(lengths, stage.seq_len, seed)) for seed in range(first, first + stage.batch_size)]
        yield {name: np.concatenate([one[name] for one in drawn]) for name in drawn[0]}
