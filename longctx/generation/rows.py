"""Rows of one cache that come and go: each is begun, read, continued and left by itself, in programs of few shapes.

A prompt is read a chunk at a time, of one row; a new token is chosen and read for all rows at once, those that wait
being padding. A row that was left keeps its tokens, so that another one may begin with those that both have in common.
What a row says does not depend on the others.
"""

# specs stand in named tuples of arrays, and numpy's arrays where programs take jax's
# pyright: reportArgumentType=false

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from longctx import meshes
from longctx.config import RopeConfig
from longctx.errors import UserError
from longctx.generation import decode, reading, sampling
from longctx.generation.cache import SPECS, Cache, extend, lost
from longctx.generation.request import Sampling
from longctx.model import functional
from pallas_kernels.arguments import AnyArray
from pallas_kernels.masks import TokenInfo

SCORED = 128  # tokens that are scored at a time: so many rows of logits exist
TOP = 20  # of the likeliest tokens are told at each place, at most


class Scores(NamedTuple):
    """What the model says about tokens [n], without temperature. Arrays of numpy, or of jax.

    Attributes:
      logprobs: float32, in nats.
      top_ids, top_logprobs: int32 and float32, the TOP likeliest tokens in place of each, best first.
    """

    logprobs: Float[AnyArray, " n"]
    top_ids: Int[AnyArray, "n top"]
    top_logprobs: Float[AnyArray, "n top"]


class Draw(NamedTuple):
    """The way in which a row's next token is drawn: as row `index` of generation.api.stream draws that of `step`.

    key: the data of a key of jax.random.
    """

    sampling: Sampling
    key: np.ndarray
    step: int
    index: int = 0


class Rows:
    """The cache of some rows. Call from one thread, under `jax.set_mesh` of a mesh that does not cut the batch.

    Attributes:
      count, capacity: the number of rows, and the most tokens of each. RoPE scalings that depend on the length take
        every row to be that long.
      tokens_read: those that were read of prompts so far.
    """

    def __init__(
        self,
        graph: nnx.GraphDef,
        params: dict,
        count: int,
        capacity: int,
        chunk: int = 512,
        rope: RopeConfig | None = None,
        announce: Callable[[str], None] = lambda program: None,
    ):
        """announce: called with what a program does, before it is compiled."""
        mesh = jax.sharding.get_mesh()
        if any(mesh.shape[axis] > 1 for axis in meshes.BATCH):
            raise UserError(
                f"mesh.data={mesh.shape['data']} and mesh.fsdp={mesh.shape['fsdp']} cut the batch, and here rows are "
                "read one by one; mesh.tensor and mesh.context cut one model over devices."
            )
        self.count, self.capacity, self.tokens_read = count, reading.round_up(capacity, mesh.size), 0
        self._params, self._config = functional.forward_only(params), functional.merged(graph, params).config
        self._static, self._chunk, self._mesh = (graph, rope, self.capacity), chunk, mesh
        self._tokens, self._lengths = np.zeros((count, self.capacity), np.int32), np.zeros(count, np.int32)
        self._cache = reading.empty(self._config, count, self.capacity)
        self._last = jnp.zeros((count, self._config.d_model), self._config.dtype, out_sharding=meshes.ROWS)
        self._announce, self._known = announce, set()

    def held(self, row: int) -> np.ndarray:
        """The tokens of a row whose keys and values are in the cache."""
        return self._tokens[row, : self._lengths[row]]

    def gives(self, source: int, count: int) -> bool:
        """Whether a row can begin with the first `count` tokens of the row `source`."""
        return count == self._lengths[source] or not self.loses(int(self._lengths[source]))

    def loses(self, tokens: int) -> bool:
        """Whether a row of so many tokens no longer has all of them: a window's first ones made room for later ones."""
        return lost(self._config, self.capacity, tokens)

    def begin(self, row: int, source: int, count: int) -> None:
        """Makes `row` the first `count` tokens of the row `source`, which may be itself."""
        if count and source != row:
            self._cache = _copied(self._cache, source, row, count)
        elif count < self._lengths[row]:
            self._cache = _shortened(self._cache, row, count)
        self._tokens[row, :count], self._lengths[row] = self._tokens[source, :count], count

    def clear(self, row: int) -> None:
        """Makes a row empty whose keys or values may be NaN."""
        self._cache, self._lengths[row] = _cleared(self._cache, row), 0

    def read(self, row: int, ids: np.ndarray, scored: bool = False) -> tuple[int, Scores | None]:
        """Reads some of the tokens `ids`, which follow those of the row: (how many, what the model says of the next).

        scored: with Scores, for each token that was read of the one after it; the last of `ids` has none.
        """
        width = reading.width(len(ids), min(self._chunk, SCORED) if scored else self._chunk)
        some = ids[:width]
        self._compiling(f"reads {width} tokens" + (" and scores them" if scored else ""))
        batch = next(reading.chunks([some], width, int(self._lengths[row])))
        batch["targets"] = np.pad(ids[1 : width + 1], (0, width - len(ids[1 : width + 1])))[None]
        batch = meshes.put_whole(batch, self._mesh)
        self._cache, self._last, scores = _read(self._static, scored, self._params, self._cache, self._last, row, batch)
        self._note(row, some)
        self.tokens_read += len(some)
        if scores is None:
            return len(some), None
        followed = len(ids[1 : len(some) + 1])
        return len(some), Scores(*(np.asarray(x)[:followed] for x in scores))

    def write(self, draws: Sequence[Draw | None], goes_on: Sequence[bool]) -> tuple[np.ndarray, Scores]:
        """(the next token of every row with a Draw, int32 [count], -1 where logits are NaN; the Scores of all).

        goes_on: the rows whose token is read into the cache as well.
        """
        self._compiling(f"writes a token of {self.count} rows")
        tokens, scores = _choose(self._static[0], self._params, self._last, _arrays(draws, self._mesh))
        if any(goes_on):  # runs while the caller looks at the tokens
            active = np.array(goes_on, np.int32)
            self._cache, self._last = _write(
                self._static, self._params, self._cache, self._last, tokens, self._lengths * active, active
            )
        tokens = np.asarray(tokens)
        for row in np.flatnonzero(goes_on):
            self._note(row, tokens[row : row + 1])
        return tokens, Scores(*map(np.asarray, scores))

    def _note(self, row: int, tokens: np.ndarray) -> None:
        start = self._lengths[row]
        self._tokens[row, start : start + len(tokens)] = tokens
        self._lengths[row] += len(tokens)

    def _compiling(self, program: str) -> None:
        if program not in self._known:
            self._known.add(program)
            self._announce(program)


class _Draws(NamedTuple):
    """Draws as arrays [count, ...]; 0 in `draws` for rows that take the likeliest token."""

    draws: np.ndarray
    keys: np.ndarray
    steps: np.ndarray
    indices: np.ndarray
    temperature: np.ndarray
    kept: sampling.Kept


def _arrays(draws: Sequence[Draw | None], mesh):
    """The _Draws of every row, on the mesh; a row without a Draw takes the likeliest token."""
    greedy = next(draw for draw in draws if draw is not None)._replace(sampling=Sampling())
    rows = [draw or greedy for draw in draws]
    kept = [sampling.Kept.by(draw.sampling) or sampling.Kept(0, 1.0, -np.inf) for draw in rows]
    column = lambda values, dtype: np.array(values, dtype)[:, None]
    arrays = _Draws(
        np.array([draw.sampling.temperature > 0 for draw in rows]),
        np.stack([draw.key for draw in rows]),
        np.array([draw.step for draw in rows], np.int32),
        np.array([draw.index for draw in rows], np.int32),
        column([sampling.divisor(draw.sampling) for draw in rows], np.float32),
        sampling.Kept(*map(column, zip(*kept, strict=True), (np.int32, np.float32, np.float32))),
    )
    return jax.device_put(arrays, NamedSharding(mesh, meshes.REPLICATED))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3, 4))
def _read(static: tuple, scored: bool, params, cache, last, row, batch: dict):
    """(cache, last, Scores or None) after a chunk of one row; static and batch: see decode.read; and `targets`."""
    graph, rope, length = static
    model, info = functional.merged(graph, params), TokenInfo(batch["positions"], batch["segments"])
    x, one = extend(model, batch["tokens"], info, _taken(cache, row), rope, length)
    here = jnp.arange(last.shape[0])[:, None] == row
    ended = jax.sharding.reshard(decode.at_ends(x, batch["ends"]), meshes.REPLICATED)
    last = jax.sharding.reshard(jnp.where(here, ended, last), meshes.ROWS)
    scores = None
    if scored:
        logits = jax.sharding.reshard(model.logits(x), meshes.REPLICATED)[0]
        scores = _scores(logits, jax.sharding.reshard(batch["targets"], meshes.REPLICATED)[0])
    return _put(cache, row, one), last, scores


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(2, 3))
def _write(static: tuple, params, cache, last, tokens, positions, active):
    """(cache, last) after one more token of the rows that are active, int32 [count]."""
    others = jnp.where(active[:, None] > 0, jnp.zeros_like(last), last)
    return decode.read(*static, params, cache, others, decode.columns(tokens, positions, active))


@functools.partial(jax.jit, static_argnums=0)
def _choose(graph, params, last, draws: _Draws):
    """(tokens int32 [count], their Scores) from the last hidden states [count, D]."""
    logits = functional.merged(graph, params).logits(last, meshes.ROW_LOGITS)
    logits = jax.sharding.reshard(logits, meshes.REPLICATED)
    likeliest = jnp.argmax(logits, -1).astype(jnp.int32)

    def draw():
        folded = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(draws.keys), draws.steps)
        keys = jax.vmap(jax.random.fold_in)(folded, draws.indices)
        return jnp.where(draws.draws, sampling.drawn(logits, keys, draws.temperature, draws.kept), likeliest)

    tokens = jax.lax.cond(draws.draws.any(), draw, lambda: likeliest)
    return jnp.where(jnp.isnan(logits).any(-1), -1, tokens), _scores(logits, tokens)


def _scores(logits, targets):
    """The Scores of targets int32 [n] by logits [n, V]."""
    total = jax.nn.logsumexp(logits, -1)[:, None]
    top, ids = jax.lax.top_k(logits, min(TOP, logits.shape[-1]))
    own = jnp.take_along_axis(logits, targets[:, None], -1)
    return Scores((own - total)[:, 0], ids.astype(jnp.int32), top - total)


def _taken(cache: list[Cache], row):
    """The cache of one row."""
    return _on_devices(lambda cache, row: _slices(cache, row), (cache,), row)


def _put(cache: list[Cache], row, one: list[Cache]):
    """The cache with another row in place of `row`."""
    return _on_devices(_with, (cache, one), row)


@functools.partial(jax.jit, donate_argnums=0)
def _copied(cache, source, row, count):
    """The cache whose row `row` has the first `count` tokens of the row `source`."""

    def local(cache, source, row, count):
        shorter = lambda info: info._replace(segments=info.segments * (info.positions < count))
        return _with(cache, [kind._replace(info=shorter(kind.info)) for kind in _slices(cache, source)], row)

    return _on_devices(local, (cache,), source, row, count)


@functools.partial(jax.jit, donate_argnums=0)
def _cleared(cache, row):
    """The cache with zeros in a row: what it had may be NaN, and 0 times NaN is no 0."""
    return _on_devices(
        lambda cache, row: _with(cache, jax.tree.map(jnp.zeros_like, _slices(cache, row)), row), (cache,), row
    )


@functools.partial(jax.jit, donate_argnums=0)
def _shortened(cache, row, count):
    """The cache whose row `row` has none but its first `count` tokens."""

    def shorter(info):
        other = jax.lax.broadcasted_iota(jnp.int32, info.segments.shape, 0) != row
        return info._replace(segments=info.segments * (other | (info.positions < count)))

    return [kind._replace(info=shorter(kind.info)) for kind in cache]


def _on_devices(local: Callable, caches: tuple, *numbers):
    """local(*caches, *numbers), a cache, on the part of every device: a slice of rows is none of what mesh axes cut."""
    specs = [SPECS] * len(caches[0])
    in_specs = (*[specs] * len(caches), *[P()] * len(numbers))
    return jax.shard_map(local, in_specs=in_specs, out_specs=specs)(*caches, *map(jnp.asarray, numbers))


def _slices(cache: list[Cache], row):
    return [_each(lambda x, axis: jax.lax.dynamic_slice_in_dim(x, row, 1, axis), kind) for kind in cache]


def _with(cache: list[Cache], one: list[Cache], row):
    put = lambda x, new, axis: jax.lax.dynamic_update_slice_in_dim(x, new, row, axis)
    return [_each(put, kind, new) for kind, new in zip(cache, one, strict=True)]


def _each(change: Callable, *kinds: Cache) -> Cache:
    """change(*arrays, the axis of their rows) of the arrays of one kind of layer."""
    keys, values = (jax.tree.map(lambda *x: change(*x, 1), *(kind[i] for kind in kinds)) for i in range(2))
    return Cache(keys, values, jax.tree.map(lambda *x: change(*x, 0), *(kind.info for kind in kinds)))
