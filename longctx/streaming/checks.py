"""The settings of memory.backward="streamed": sizes that divide, and what it asks of patterns and strategies."""

import math

from longctx.config import Config
from longctx.context_parallel import api as context_parallel
from longctx.errors import UserError
from longctx.streaming.attention import plan_of_chunks
from pallas_kernels import masks


def check(config: Config) -> None:
    """Raises UserError where the streamed backward cannot cut the rows, the layers or the attention of a run."""
    memory, shards, kinds = config.memory, config.mesh.context_shards, len(config.model.kinds)
    length = math.gcd(*(stage.seq_len for stage in config.stages))
    if memory.chunk_tokens < 1 or length % memory.chunk_tokens or memory.chunk_tokens % shards:
        works = max(size for size in range(shards, length + 1, shards) if length % size == 0 and size <= 4096 * shards)
        raise UserError(
            f"memory.chunk_tokens={memory.chunk_tokens} must divide the length of every stage, and be a multiple of "
            f"the {shards} context shards; {works} works."
        )
    if kinds % memory.residual_every and memory.residual_every % kinds:
        raise UserError(
            f"memory.residual_every={memory.residual_every} must divide the {kinds} kinds of layers of "
            f"model.pattern, or be a multiple of them; 1 and {kinds} work."
        )
    for kind in config.model.kinds:
        try:
            context_parallel.check(plan_of_chunks(config), masks.parse(kind.mask))
        except UserError as error:
            raise UserError(f"memory.backward='streamed': {error}") from error
