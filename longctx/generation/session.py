"""A conversation: one row whose keys and values stay in the cache from one turn to the next."""

import os
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx

from longctx.config import RopeConfig
from longctx.errors import UserError
from longctx.generation import decode, reading
from longctx.generation.api import check_chosen
from longctx.generation.cache import lost
from longctx.generation.request import Request, token_ids
from longctx.model import functional


class Session:
    """The cache of one row, which is read and continued again and again. Call under `jax.set_mesh`.

    Attributes:
      tokens: those whose keys and values are in the cache.
      capacity: the most tokens that the row can have. RoPE scalings that depend on the length take it to be this long.
    """

    def __init__(self, graph: nnx.GraphDef, params: dict, capacity: int, rope: RopeConfig | None = None):
        self._params = functional.forward_only(params)
        self._config = functional.merged(graph, params).config
        self.tokens: list[int] = []
        self.capacity = capacity
        self._static = graph, rope, capacity
        mesh = jax.sharding.get_mesh()
        self._rows = mesh.shape["data"] * mesh.shape["fsdp"]  # alike: all but the first are padding
        self._cache = None

    def stream(self, ids, request: Request, key: jax.Array | None = None) -> Iterator[int]:
        """The tokens that follow the row `ids`, int [T], one by one; what the cache has of it is not read again.

        Stopped early, the session holds what was read so far.

        Raises:
          UserError: for ids that the model does not know, a row that would have more than `capacity` tokens, and for
            logits that are NaN.
        """
        ids = token_ids("ids", ids, self._config.vocab_size, "T")
        if len(ids) + request.max_new_tokens > self.capacity:
            raise UserError(
                f"{len(ids)} tokens and max_new_tokens={request.max_new_tokens} are more than the {self.capacity} that "
                "the cache has room for; give it more, or start anew."
            )
        key = jax.random.key(0) if key is None else key
        choose = decode.Chooser(
            self._static[0], self._params, request.check().sampling, key, [ids] * self._rows, self._config.vocab_size
        )
        last = self._read(ids, request.chunk)
        for step in range(request.max_new_tokens):
            chosen = choose(last)
            position = np.full(self._rows, len(self.tokens), np.int32)
            self._cache, last = decode.read_one(*self._static, self._params, self._cache, chosen, position)
            token = int(np.asarray(chosen)[0])
            check_chosen(np.array([token]), step, self._config)
            self.tokens.append(token)
            yield token
            if token in request.stop:
                return

    def _read(self, ids: np.ndarray, chunk: int):
        """The hidden states [B, D] of the row's last token, all of the row being in the cache then."""
        common = len(os.path.commonprefix([self.tokens, ids.tolist()]))
        common = min(common, len(ids) - 1)  # its last token is read in any case, for its hidden state
        if self._cache is None or common < len(self.tokens):
            self._forget(common)
        common, self.tokens = len(self.tokens), ids.tolist()
        new = [ids[common:]] * self._rows
        self._cache, last = reading.read(self._static, self._params, self._config, self._cache, new, chunk, common)
        return last

    def _forget(self, kept: int) -> None:
        """Takes the tokens from number `kept` on out of the cache, or all of them where a ring lost those before."""
        size = reading.round_up(self.capacity, jax.sharding.get_mesh().size)
        if self._cache is None or lost(self._config, size, len(self.tokens)) or not kept:
            self._cache, self.tokens = reading.empty(self._config, self._rows, size), []
        else:
            self._cache, self.tokens = _first(self._cache, kept), self.tokens[:kept]


@jax.jit
def _first(cache, count):
    """The cache without tokens whose position is `count` or more."""
    emptied = lambda info: info._replace(segments=info.segments * (info.positions < count))
    return [kind._replace(info=emptied(kind.info)) for kind in cache]
