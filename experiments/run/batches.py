"""The batches of a stage as the devices of this process take them: its rows of each, in the order of the layout."""

import functools

from longctx import layouts, meshes
from longctx.config import Config
from longctx.data import pipeline
from longctx.data.curriculum import Stage
from longctx.data.generated import api as generated
from longctx.data.joining import joined
from longctx.data.mixture import TextRows
from longctx.data.texts import Texts
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
        transform=functools.partial(laid_out, config, stage.joined),
        arrange=arrange,
    )


def laid_out(config: Config, count: int, batch: pipeline.Batch) -> pipeline.Batch:
    """The batch, its rows joined `count` at a time, in the order of the layout; the sources of its rows stay, where
    there are several."""
    if not told_apart(config):
        batch.pop("sources", None)
    batch = joined(batch, count)
    sources = {name: batch.pop(name) for name in ("sources",) if name in batch}
    layout, shards = config.attention.layout, config.mesh.context_shards
    return layouts.lay_out(batch, layout, shards, reaches(config.model)) | sources


def told_apart(config: Config) -> tuple[str, ...]:
    """The names of the sources whose losses the training step tells apart; none where there is one."""
    names = generated.source_names(config.data)
    return names if len(names) > 1 else ()


def of_text(
    config: Config, mesh, texts: Texts, tokenizer: Tokenizer, stage: Stage
) -> tuple[pipeline.BatchStream, TextRows]:
    """(the stream of a stage's batches of packed text, the rows that they are made of).

    Each data-parallel rank gets rows that take attention about equally long.
    """
    packed = pipeline.stage_rows(texts, tokenizer, stage, config.data, config.seed)
    arrange = pipeline.dealt(packed, reaches(config.model), config.mesh.data * config.mesh.fsdp)
    return of_rows(config, mesh, packed, stage, arrange), packed
