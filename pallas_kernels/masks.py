"""The mask algebra: which query may see which key, as a function of positions and segment ids, never of array indices.

    Causal() & (Window(1024) | Sinks(4))        # a sliding window that also keeps the first four tokens
    (Causal() | PrefixLM(64)) & Segments()      # a bidirectional prefix in every packed document

Because a mask knows positions only, it means the same on every shard, under every layout and in every ring step. A mask
answers two questions: for tokens, `visible` (elementwise); for a block of queries and a block of keys known by their
`Ranges`, `relation`: is the block certainly EMPTY, certainly FULL, or PARTIAL. `relation` may say PARTIAL too often,
never EMPTY or FULL wrongly.

Segment id 0 marks "no token" (padding): it sees nothing and is seen by nothing, under every mask.
"""

# parts of jax have no types; methods of the masks take what those of Mask do; what callers give is checked when it runs
# pyright: reportUnknownMemberType=false, reportMissingParameterType=false, reportUnnecessaryIsInstance=false

import ast
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Integer

from pallas_kernels.arguments import require_whole

EMPTY, PARTIAL, FULL = 0, 1, 2
_FAR = 2**30 - 1  # beyond any position; differences still fit int32
MOST = _FAR - 1  # of positions and segments
_ANY = float("inf")


class TokenInfo(NamedTuple):
    """Positions and segments: all that masks and biases may know of tokens.

    Attributes:
      positions: int32, e.g. [B, T]: the place of each token in its document.
      segments: int32 of that shape: the document of each token, from 1 on; 0 is padding.
    """

    positions: Integer[Array, "..."]
    segments: Integer[Array, "..."]


class Ranges(NamedTuple):
    """Bounds of the positions and segments of a block's real tokens; `real` is False where it holds padding too."""

    pos_min: Integer[Array, "..."]
    pos_max: Integer[Array, "..."]
    seg_min: Integer[Array, "..."]
    seg_max: Integer[Array, "..."]
    real: Bool[Array, "..."]


def block_ranges(info: TokenInfo, block: int) -> Ranges:
    """Ranges of consecutive blocks along the last axis: [..., T] -> [..., T // block]."""
    pos, seg = (x.reshape(*x.shape[:-1], -1, block) for x in info)
    is_token = seg > 0

    def low(x: Integer[Array, "..."]) -> Integer[Array, "..."]:
        return jnp.where(is_token, x, _FAR).min(-1)

    def high(x: Integer[Array, "..."]) -> Integer[Array, "..."]:
        return jnp.where(is_token, x, -_FAR).max(-1)

    return Ranges(low(pos), high(pos), low(seg), high(seg), is_token.all(-1))


@dataclasses.dataclass(frozen=True)
class Mask:
    """Base of the masks. Subclasses are frozen and hashable, so that a mask can be a static argument of a jit.

    To add a mask: a class here with `visible` and `relation`, and a line in NAMES. Numbers of a mask are whole: sizes,
    from 1 on, and counts, from 0 on. Raises ValueError for others.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.type is int:
                name = f"{type(self).__name__} with {field.name}"
                require_whole(name, getattr(self, field.name), 1 if field.name == "size" else 0, _FAR)

    def visible(self, q: TokenInfo, k: TokenInfo) -> Bool[Array, "..."]:
        """Elementwise bool for broadcastable q and k."""
        raise NotImplementedError

    def relation(self, q: Ranges, k: Ranges) -> tuple[Bool[Array, "..."], Bool[Array, "..."]]:
        """(certainly empty, certainly full), each bool, for broadcastable ranges."""
        raise NotImplementedError

    def reach(self) -> tuple[float, float]:
        """(low, high), bounds of q's position - k's position over all visible pairs of one document."""
        return -_ANY, _ANY

    def memory(self) -> tuple[int, float]:
        """(first, recent): the keys that a cache must keep.

        In every visible pair of one document the key is among its first `first` positions, or at most `recent`
        positions before the query.
        """
        return 0, self.reach()[1]

    def __and__(self, other: "Mask") -> "Mask":
        if not isinstance(other, Mask):
            return NotImplemented
        return self if other == Full() else other if self == Full() else And(self, other)

    def __or__(self, other: "Mask") -> "Mask":
        return Or(self, other) if isinstance(other, Mask) else NotImplemented


@dataclasses.dataclass(frozen=True)
class Full(Mask):
    """Every query sees every key."""

    def visible(self, q, k):
        return jnp.broadcast_to(True, jnp.broadcast_shapes(q.positions.shape, k.positions.shape))

    def relation(self, q, k):
        true = jnp.broadcast_to(True, jnp.broadcast_shapes(q.pos_min.shape, k.pos_min.shape))
        return ~true, true


@dataclasses.dataclass(frozen=True)
class Causal(Mask):
    """A query sees keys at its own position and before."""

    def visible(self, q, k):
        return q.positions >= k.positions

    def relation(self, q, k):
        return q.pos_max < k.pos_min, q.pos_min >= k.pos_max

    def reach(self):
        return 0, _ANY


@dataclasses.dataclass(frozen=True)
class Window(Mask):
    """A query sees keys less than `size` before it, itself included (Hugging Face's convention). Not causal alone."""

    size: int

    def visible(self, q, k):
        return q.positions - k.positions < self.size

    def relation(self, q, k):
        return q.pos_min - k.pos_max >= self.size, q.pos_max - k.pos_min < self.size

    def reach(self):
        return -_ANY, self.size - 1


@dataclasses.dataclass(frozen=True)
class Beyond(Mask):
    """A query sees keys at least `size` before it: those that Window(size) leaves out."""

    size: int

    def visible(self, q, k):
        return q.positions - k.positions >= self.size

    def relation(self, q, k):
        return q.pos_max - k.pos_min < self.size, q.pos_min - k.pos_max >= self.size

    def reach(self):
        return self.size, _ANY


@dataclasses.dataclass(frozen=True)
class Sinks(Mask):
    """Every query sees the first `count` positions (StreamingLLM)."""

    count: int

    def visible(self, q, k):
        return (k.positions < self.count) & (q.positions == q.positions)

    def relation(self, q, k):
        true = q.pos_min == q.pos_min  # in the common shape
        return (k.pos_min >= self.count) & true, (k.pos_max < self.count) & true

    def reach(self):
        return 1 - self.count, _ANY

    def memory(self):
        return self.count, -_ANY


@dataclasses.dataclass(frozen=True)
class PrefixLM(Mask):
    """Positions below `length` see one another in both directions. Meant for `Causal() | PrefixLM(n)`."""

    length: int

    def visible(self, q, k):
        return (q.positions < self.length) & (k.positions < self.length)

    def relation(self, q, k):
        empty = (q.pos_min >= self.length) | (k.pos_min >= self.length)
        return empty, (q.pos_max < self.length) & (k.pos_max < self.length)

    def reach(self):
        return 1 - self.length, self.length - 1


@dataclasses.dataclass(frozen=True)
class Chunked(Mask):
    """A query sees keys of its own chunk of `size` positions (Llama 4). Not causal by itself."""

    size: int

    def visible(self, q, k):
        return _chunk(q.positions, self.size) == _chunk(k.positions, self.size)

    def relation(self, q, k):
        return _same(*(_chunk(x, self.size) for x in (q.pos_min, q.pos_max, k.pos_min, k.pos_max)))

    def reach(self):
        return 1 - self.size, self.size - 1


@dataclasses.dataclass(frozen=True)
class ChunksBefore(Mask):
    """A query sees keys that lie `low` to `high` chunks of `size` positions before its own chunk."""

    size: int
    low: int
    high: int = _FAR

    def visible(self, q, k):
        apart = _chunk(q.positions, self.size) - _chunk(k.positions, self.size)
        return (apart >= self.low) & (apart <= self.high)

    def relation(self, q, k):
        least = _chunk(q.pos_min, self.size) - _chunk(k.pos_max, self.size)
        most = _chunk(q.pos_max, self.size) - _chunk(k.pos_min, self.size)
        return (most < self.low) | (least > self.high), (least >= self.low) & (most <= self.high)

    def reach(self):
        return (self.low - 1) * self.size + 1, (self.high + 1) * self.size - 1


@dataclasses.dataclass(frozen=True)
class Segments(Mask):
    """A query sees keys of its own segment: the document, in a packed row."""

    def visible(self, q, k):
        return q.segments == k.segments

    def relation(self, q, k):
        return _same(q.seg_min, q.seg_max, k.seg_min, k.seg_max)


@dataclasses.dataclass(frozen=True)
class Branches(Mask):
    """A query sees keys of its own branch, and of the beginning that the branches of its document share.

    Document d has segments from d * size on: d * size is the beginning, the others are its branches, each with the
    positions that follow the beginning's. So many texts that begin alike are read in one row. Branches lie at places of
    the row that are further apart than their positions.
    """

    size: int

    def visible(self, q, k):
        document = _chunk(k.segments, self.size)
        beginning = (k.segments == document * self.size) & (_chunk(q.segments, self.size) == document)
        return (q.segments == k.segments) | beginning

    def relation(self, q, k):
        first, last = _chunk(k.seg_min, self.size), _chunk(k.seg_max, self.size)
        other, one = _same(_chunk(q.seg_min, self.size), _chunk(q.seg_max, self.size), first, last)
        apart, alike = _same(q.seg_min, q.seg_max, k.seg_min, k.seg_max)
        start = first * self.size
        beginning, branches = k.seg_max == start, (k.seg_min > start) & (first == last)
        return other | (apart & branches), one & beginning | alike


@dataclasses.dataclass(frozen=True)
class And(Mask):
    """A query sees the keys that both masks let it see."""

    left: Mask
    right: Mask

    def visible(self, q, k):
        return self.left.visible(q, k) & self.right.visible(q, k)

    def relation(self, q, k):
        (e1, f1), (e2, f2) = self.left.relation(q, k), self.right.relation(q, k)
        return e1 | e2, f1 & f2

    def reach(self):
        (low1, high1), (low2, high2) = self.left.reach(), self.right.reach()
        return max(low1, low2), min(high1, high2)

    def memory(self):
        (first1, recent1), (first2, recent2) = self.left.memory(), self.right.memory()
        return max(first1, first2), min(recent1, recent2)


@dataclasses.dataclass(frozen=True)
class Or(Mask):
    """A query sees the keys that one mask or the other lets it see."""

    left: Mask
    right: Mask

    def visible(self, q, k):
        return self.left.visible(q, k) | self.right.visible(q, k)

    def relation(self, q, k):
        (e1, f1), (e2, f2) = self.left.relation(q, k), self.right.relation(q, k)
        return e1 & e2, f1 | f2

    def reach(self):
        (low1, high1), (low2, high2) = self.left.reach(), self.right.reach()
        return min(low1, low2), max(high1, high2)

    def memory(self):
        (first1, recent1), (first2, recent2) = self.left.memory(), self.right.memory()
        return max(first1, first2), max(recent1, recent2)


def branched(mask: Mask) -> bool:
    """Whether texts that begin alike share their beginning under a mask: whether it has Branches."""
    match mask:
        case And(left, right) | Or(left, right):
            return branched(left) or branched(right)
        case _:
            return isinstance(mask, Branches)


def within_documents(mask: Mask) -> Mask:
    """The mask, as far as a token's document goes; where it has Branches, these say how far."""
    return mask if branched(mask) else mask & Segments()


def _chunk(numbers: Integer[Array, "*shape"], size: int) -> Integer[Array, "*shape"]:
    return jax.lax.div(numbers, jax.lax.full_like(numbers, size))  # the numbers are >= 0, and kernels have no //


def _same(
    q_min: Integer[Array, "..."],
    q_max: Integer[Array, "..."],
    k_min: Integer[Array, "..."],
    k_max: Integer[Array, "..."],
) -> tuple[Bool[Array, "..."], Bool[Array, "..."]]:
    """(empty, full) of "equal ids", from the bounds of the ids on both sides."""
    empty = (q_max < k_min) | (k_max < q_min)
    return empty, (q_min == q_max) & (k_min == k_max) & (q_min == k_min)


def visible(mask: Mask, q: TokenInfo, k: TokenInfo) -> Bool[Array, "... T S"]:
    """Whether each query sees each key, padding excluded: q [..., T], k [..., S] -> bool [..., T, S]."""
    return sees(mask, TokenInfo(*(x[..., :, None] for x in q)), TokenInfo(*(x[..., None, :] for x in k)))


def sees(mask: Mask, q: TokenInfo, k: TokenInfo) -> Bool[Array, "..."]:
    """Whether queries see keys, padding excluded: elementwise bool for broadcastable q and k."""
    return mask.visible(q, k) & (q.segments > 0) & (k.segments > 0)


def relation(mask: Mask, q: Ranges, k: Ranges) -> Integer[Array, "... Tb Sb"]:
    """EMPTY, PARTIAL or FULL of every pair of blocks: q [..., Tb], k [..., Sb] -> int32 [..., Tb, Sb]."""
    q = Ranges(*(x[..., :, None] for x in q))
    k = Ranges(*(x[..., None, :] for x in k))
    empty, full = mask.relation(q, k)
    return jnp.where(empty | _no_token(q, k), EMPTY, jnp.where(full & q.real & k.real, FULL, PARTIAL))


def nothing(mask: Mask, q: Ranges, k: Ranges) -> Bool[Array, "..."]:
    """Whether certainly no query sees a key: bool, for broadcastable ranges, whose `real` it does not read."""
    return mask.relation(q, k)[0] | _no_token(q, k)


def _no_token(q: Ranges, k: Ranges) -> Bool[Array, "..."]:
    """Whether either block is all padding."""
    return (q.seg_max < 1) | (k.seg_max < 1)


NAMES: dict[str, Callable[..., Mask]] = {
    "full": Full,
    "causal": Causal,
    "window": Window,
    "beyond": Beyond,
    "sinks": Sinks,
    "prefix_lm": PrefixLM,
    "chunked": Chunked,
    "segments": Segments,
    "branches": Branches,
}


def parse(text: str) -> Mask:
    """The mask that an expression such as "causal & (window(1024) | sinks(4))" names.

    Raises:
      ValueError: on anything but the names in NAMES, `&`, `|`, parentheses and one whole number per call.
    """
    try:
        return _build(ast.parse(text, mode="eval").body, text)
    except (SyntaxError, TypeError) as error:
        raise ValueError(f"{text!r} is not a mask ({error}). {_help()}") from None


def _build(node: ast.expr, text: str) -> Mask:
    match node:
        case ast.BinOp(left, ast.BitAnd(), right):
            return _build(left, text) & _build(right, text)
        case ast.BinOp(left, ast.BitOr(), right):
            return _build(left, text) | _build(right, text)
        case ast.Name(name) if name in NAMES:
            return NAMES[name]()
        case ast.Call(ast.Name(name), [ast.Constant(int(value))], []) if name in NAMES and _positive(value):
            return NAMES[name](value)
        case _:
            raise ValueError(f"{ast.unparse(node)!r} in {text!r} is not a mask. {_help()}")


def _positive(value: int) -> bool:
    return value > 0 and value is not True


def _help() -> str:
    return f"Known: {', '.join(NAMES)}; combine with & and |, e.g. 'causal & (window(1024) | sinks(4))'."
