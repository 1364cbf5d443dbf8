"""Position methods: how the place of a query and a key changes their score. To add one: a class, a line in METHODS.

A method cuts the pairs of a layer's mask into parts, and says by which positions the queries and keys of each part are
rotated. Attention attends each part and merges them by log-sum-exp, so no kernel and no context-parallel strategy
knows of a method. Between devices the keys of each part travel, as far as its mask reaches. A method may also add a
bias to the scores.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from longctx.errors import as_user_error
from longctx.parsing import parse_call
from pallas_kernels.arguments import require_whole
from pallas_kernels.attention import bias as biases
from pallas_kernels.masks import MOST, Beyond, Chunked, ChunksBefore, Full, Mask, Sinks, Window

Map = Callable[[jax.Array], jax.Array]


def own(positions: jax.Array) -> jax.Array:
    """The map of plain RoPE: a token's place in its document."""
    return positions


def constant(value: int) -> Map:
    """The map of all positions to one."""
    return lambda positions: jnp.full_like(positions, value)


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the pairs of a query and a key, and the rotation of this part.

    Attributes:
      mask: which pairs; no pair is in two parts of a method, and a pair in none is not seen.
      query, key: int32 positions in the document -> int32 positions from 0 on to rotate by, elementwise.
      divisor: what those count: 1 / divisor tokens. Whole numbers keep angles exact.
    """

    mask: Mask = Full()
    query: Map = own
    key: Map = own
    divisor: int = 1


@dataclasses.dataclass(frozen=True)
class Method:
    """Base of the methods. Frozen and hashable; the fields are the numbers in parentheses of a setting, from 1 on.

    Attributes:
      rotates: whether queries and keys are rotated at all.
      bias: of pallas_kernels.attention.bias, or None.
      learned: how many numbers of each head it reads, if these are trained: all layers share them, they start at 0.
    """

    rotates = True
    bias = None
    learned = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            as_user_error(require_whole, f"{type(self).__name__} with {field.name}", getattr(self, field.name), 1, MOST)

    def parts(self) -> tuple[Part, ...]:
        return (Part(),)

    def table(self, heads: int) -> np.ndarray | None:
        """Numbers of each query head that the bias reads, float32 [N, D]; None where they are learned or not needed."""
        return None

    def why_not(self, mask: Mask) -> str | None:
        """The reason why the method does not go with a layer's mask; None when it does."""
        return None


class Rope(Method):
    """Rotary position embedding (arXiv 2104.09864) by the distance itself."""


class Nope(Method):
    """No position at all (arXiv 2305.19466): the causal mask alone tells."""

    rotates = False


class Alibi(Method):
    """A penalty that grows with the distance (arXiv 2108.12409), with the published slopes; no rotation."""

    rotates = False
    bias = biases.Alibi()

    def table(self, heads):
        return biases.alibi_slopes(heads)


@dataclasses.dataclass(frozen=True)
class T5(Method):
    """A learned number for each head and bucket of distances (arXiv 1910.10683), shared by the layers; no rotation."""

    buckets: int = 32
    max_distance: int = 128
    rotates = False

    @property
    def bias(self):
        return biases.T5(self.buckets, self.max_distance)

    @property
    def learned(self):
        return self.buckets

    def why_not(self, mask):
        if self.buckets < 2 or self.max_distance <= self.buckets // 2:
            return f"it needs 2 buckets at least, and max_distance above buckets / 2 = {self.buckets // 2}"
        return None


@dataclasses.dataclass(frozen=True)
class DualChunk(Method):
    """Dual Chunk Attention (arXiv 2402.17463): no distance exceeds `chunk`, and those up to `local` are exact.

    With n = chunk - local: keys are rotated by their place in chunks of n tokens; queries by theirs for keys of their
    own chunk, by n more, at most `chunk`, for those of the chunk before, and by the largest of these for all earlier.
    Up to n tokens it is plain RoPE. Moving all tokens by a multiple of n changes nothing; another move changes where
    chunks begin.
    """

    chunk: int
    local: int

    def parts(self):
        n = self.chunk - self.local
        place = lambda positions: positions % n
        after = lambda positions: jnp.minimum(positions % n + n, self.chunk)
        return (
            Part(Chunked(n), place, place),
            Part(ChunksBefore(n, 1, 1), after, place),
            Part(ChunksBefore(n, 2), constant(min(2 * n - 1, self.chunk)), place),
        )

    def why_not(self, mask):
        if self.local >= self.chunk:
            return f"local={self.local} must be below chunk={self.chunk}"
        if mask.reach()[0] < 0:
            return "its chunks look back only: the mask must be causal"
        return None


@dataclasses.dataclass(frozen=True)
class SelfExtend(Method):
    """Self-Extend (arXiv 2401.01325): exact below a distance of `window`, beyond it by groups of `group` tokens.

    Grouped distance: floor(m / group) - floor(n / group) + window - floor(window / group). With group 1 it is plain
    RoPE. Moving all tokens by a multiple of `group` changes nothing; another move changes where groups begin.
    """

    group: int
    window: int

    def parts(self):
        grouped = lambda positions: positions // self.group
        later = lambda positions: grouped(positions) + self.window - self.window // self.group
        return Part(Window(self.window)), Part(Beyond(self.window), later, grouped)


@dataclasses.dataclass(frozen=True)
class ReRope(Method):
    """ReRoPE: no distance exceeds `window`."""

    window: int

    def parts(self):
        return Part(Window(self.window)), Part(Beyond(self.window), constant(self.window), constant(0))


@dataclasses.dataclass(frozen=True)
class LeakyReRope(Method):
    """Leaky ReRoPE: beyond `window`, distances grow by one for every `divisor` tokens."""

    window: int
    divisor: int

    def parts(self):
        moved = lambda positions: positions + self.window * (self.divisor - 1)
        return Part(Window(self.window)), Part(Beyond(self.window), moved, own, self.divisor)


@dataclasses.dataclass(frozen=True)
class LMInfinite(Method):
    """LM-Infinite (arXiv 2308.16137): the last `window` tokens, and the document's first `first` at that distance.

    Which tokens are first depends on absolute positions, so moving all tokens changes the result.
    """

    first: int
    window: int

    def parts(self):
        far = Beyond(self.window) & Sinks(self.first)
        return Part(Window(self.window)), Part(far, constant(self.window), constant(0))


@dataclasses.dataclass(frozen=True)
class Streaming(Method):
    """StreamingLLM (arXiv 2309.17453): a cache of the document's first `first` tokens and of the last `recent`.

    Rotated by places in the cache: a query's is its last. Moving all tokens changes which of them are first.
    """

    first: int
    recent: int

    def parts(self):
        last = lambda positions: jnp.minimum(positions, self.first + self.recent - 1)
        return Part(Window(self.recent)), Part(Beyond(self.recent) & Sinks(self.first), last)


METHODS = {
    "rope": Rope,
    "nope": Nope,
    "alibi": Alibi,
    "t5": T5,
    "dca": DualChunk,
    "self_extend": SelfExtend,
    "rerope": ReRope,
    "leaky_rerope": LeakyReRope,
    "lm_infinite": LMInfinite,
    "streaming": Streaming,
}


def parse(text: str, field: str = "model.position") -> Method:
    """The method that a setting such as "rope" or "self_extend(8, 512)" names. Raises UserError for anything else."""
    method, numbers = parse_call(field, text, METHODS)
    return method(*numbers)
