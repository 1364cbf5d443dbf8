"""What placing a document costs: seconds of attention and of linear layers, bytes, and the tokens that fit."""

import dataclasses
import math

import numpy as np

from longctx.errors import UserError

# FLOPs: forward and backward of attention by pair and number of a query head, as kernels compute them; of a matmul with
# weights by token and weight
FORWARD, BACKWARD, MATMUL = 4, 10, 6
PASSES = 3  # what the forward moves once, the backward moves again and returns gradients of


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds and bytes of one training step on one rank, over all layers, forward and backward.

    Attributes:
      pair: seconds of attention of a query and a key that it sees, all heads.
      token: seconds of everything else of a token.
      query_bytes: bytes to have a token's query attended to elsewhere: query, output, gradients.
      key_bytes: bytes to have a token's key and value elsewhere, with gradients.
      rates: (ranks, bytes per second) ascending: the rate at which a rank receives from within its aligned block of so
        many ranks; the last is that of all wider groups.
      capacity: tokens that a rank holds at a time.
      row: tokens of a row, for schemes that make rows.
      heads, kv_heads: over which a group can split a document.
    """

    pair: float
    token: float
    query_bytes: float
    key_bytes: float
    rates: tuple[tuple[int, float], ...]
    capacity: int
    row: int
    heads: int = 1
    kv_heads: int = 1

    @property
    def crossing(self) -> float:
        """The length at which a document's attention takes as long as its linear layers: weights of a layer / (heads *
        head_dim) where both run at one rate and only the forward counts."""
        return 2 * self.token / self.pair

    def work(self, lengths: np.ndarray) -> np.ndarray:
        """Seconds of documents on one rank, nothing sent."""
        return self.pair * pairs(lengths) + self.token * lengths

    def by_heads(self, degree: int) -> bool:
        """Whether a group of `degree` ranks splits attention by heads (Ulysses); else by queries (a zigzag ring)."""
        return self.heads % degree == 0

    def slots(self, lengths: np.ndarray, degree: int) -> np.ndarray:
        """Places that documents over `degree` ranks take on each, with the padding that makes them divide."""
        return -(-lengths // degree)

    def seconds(self, lengths: np.ndarray, degree: int) -> np.ndarray:
        """Seconds of each document on a group of `degree` ranks: attention, linear layers, what is received."""
        spent = self.pair * pairs(lengths) / degree + self.token * self.slots(lengths, degree)
        if degree == 1:
            return spent
        by_heads = self.by_heads(degree)
        share = 1 / degree if by_heads else 0.0
        bytes_each = self.query_bytes * share + self.key_bytes * (max(share, 1 / self.kv_heads) if by_heads else 1.0)
        return spent + (lengths - lengths // degree) * bytes_each / self.rate(degree)

    def rate(self, degree: int) -> float:
        """Bytes per second that a rank receives from a group of `degree` ranks."""
        return next((rate for ranks, rate in self.rates if degree <= ranks), self.rates[-1][1])


def pairs(tokens: np.ndarray) -> np.ndarray:
    """float64: pairs of a query and a key that it sees, for the first `tokens` queries of a document."""
    return tokens * (tokens + 1.0) / 2


def of_model(model, rates, flops: tuple[float, float, float], capacity: int, row: int) -> Cost:
    """The Cost of a dense decoder in bfloat16.

    Args:
      model: layers, d_model, mlp_dim, heads, kv_heads, head_dim and vocab_size, as longctx.config.ModelConfig has them.
      rates, capacity, row: see Cost.
      flops: per second that matmuls with weights, attention's forward and its backward reach.
    """
    wide, narrow = model.heads * model.head_dim, model.kv_heads * model.head_dim
    layer = model.d_model * (2 * wide + 2 * narrow + 3 * model.mlp_dim)
    matmul, forward, backward = flops
    return Cost(
        pair=model.layers * wide * (FORWARD / forward + BACKWARD / backward),
        token=MATMUL * (model.layers * layer + model.d_model * model.vocab_size) / matmul,
        query_bytes=PASSES * model.layers * 2 * wide * 2,
        key_bytes=PASSES * model.layers * 2 * narrow * 2,
        rates=tuple(rates),
        capacity=capacity,
        row=row,
        heads=model.heads,
        kv_heads=model.kv_heads,
    )


def degrees(ranks: int) -> list[int]:
    """The sizes that groups of ranks have: powers of two up to all of them."""
    return [1 << i for i in range(ranks.bit_length())]


def check(lengths: np.ndarray, ranks: int, cost: Cost) -> np.ndarray:
    """The lengths as i64. Raises UserError for none, for empty documents, and for one that fits on no group."""
    lengths = np.asarray(lengths, np.int64)
    if lengths.ndim != 1 or not len(lengths) or lengths.min() < 1:
        raise UserError(f"lengths {lengths.tolist()[:8]} must be a list of whole numbers from 1 on; [512, 64] works.")
    if ranks < 1:
        raise UserError(f"ranks={ranks} must be a whole number from 1 on.")
    widest, longest = degrees(ranks)[-1], int(lengths.max())
    need = int(cost.slots(np.array([longest]), widest)[0])
    if need > cost.capacity:
        raise UserError(
            f"capacity={cost.capacity} tokens a rank: a document of {longest} tokens does not fit on {widest} ranks; "
            f"capacity={need} would do, or {2 ** math.ceil(math.log2(longest / cost.capacity))} ranks and more."
        )
    return lengths
