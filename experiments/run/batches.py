"""The batches of a stage as the devices of this process take them: its rows of each, in the order of the layout."""

import functools

from longctx import layouts, meshes
from longctx.config import Config
from longctx.data import pipeline
from longctx.data.curriculum import Stage
from longctx.data.rows import TokenTable
from longctx.data.sources import Corpus
from longctx.data.tokenizers import Tokenizer
from longctx.positions.view import reaches


def of_rows(config: Config, mesh, rows, stage: Stage, arrange=None) -> pipeline.BatchStream:
    """The stream of a stage's batches. rows, arrange: see BatchStream."""
    shard, shards = meshes.data_shard(mesh)
    return pipeline.BatchStream(
        rows,
        stage,
        config.seed,
        prefetch=config.data.prefetch,
        process_index=shard,
        process_count=shards,
        transform=functools.partial(
            layouts.lay_out,
            name=config.attention.layout,
            shards=config.mesh.context_shards,
            reaches=reaches(config.model),
        ),
        arrange=arrange,
    )


def of_text(
    config: Config, mesh, text: TokenTable, corpus: Corpus, tokenizer: Tokenizer, stage: Stage
) -> tuple[pipeline.BatchStream, float]:
    """(the stream of a stage's batches of packed text, the share of their slots that is padding).

    text: the table of corpus.train. Each data-parallel rank gets rows that take attention about equally long.
    """
    packed = pipeline.stage_rows(text, corpus.train, tokenizer, stage, config.data, config.seed)
    arrange = pipeline.dealt(packed, reaches(config.model), config.mesh.data * config.mesh.fsdp)
    return of_rows(config, mesh, packed, stage, arrange), packed.waste
