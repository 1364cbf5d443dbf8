"""A plan of which rank computes what, the laws that it keeps, and what follows from it by one function for all."""

import dataclasses
from typing import NamedTuple

import numpy as np

from longctx.placing.cost import Cost, pairs

PADDING = -1  # the document of places that hold none
_FAR = 1 << 33  # beyond any position


class Runs(NamedTuple):
    """Runs of neighbouring tokens [first, end) of a document on a rank in a step: i64 [R] each.

    parts: among how many ranks the heads of the run are split; each has a run like it. 1: this rank has all heads.
    """

    document: np.ndarray
    first: np.ndarray
    end: np.ndarray
    rank: np.ndarray
    step: np.ndarray
    parts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the documents of a global batch are computed, in steps that follow one another.

    Attributes:
      homes: where each token lies and goes through linear layers; PADDING among them.
      attention: where the queries of each run meet all the keys that they see.
      together: whether all ranks wait for one another between attention and linear layers, as they do where attention
        is moved to ranks that share no document; else a rank waits at the end of a step only.
    """

    ranks: int
    steps: int
    homes: Runs
    attention: Runs
    together: bool = False


class Draft:
    """A Placement in the making."""

    def __init__(self, ranks: int):
        self.ranks, self._homes, self._attention = ranks, [], []

    def home(self, document, first, end, rank, step) -> None:
        """Adds runs where tokens lie. Arguments: numbers or arrays."""
        self._homes.append(np.stack(np.broadcast_arrays(document, first, end, rank, step, 1)).reshape(6, -1))

    def attend(self, document, first, end, rank, step, parts=1) -> None:
        """Adds runs where queries are attended from. Arguments: numbers or arrays."""
        self._attention.append(np.stack(np.broadcast_arrays(document, first, end, rank, step, parts)).reshape(6, -1))

    def spread(self, document: int, length: int, rank: int, degree: int, step: int, cost: Cost) -> None:
        """Adds a document over the `degree` ranks from `rank` on: its attention by heads or as a zigzag ring's."""
        members, edge = rank + np.arange(degree), length * np.arange(degree + 1) // degree
        if cost.by_heads(degree):
            self.home(document, edge[:-1], edge[1:], members, step)
            self.attend(document, 0, length, members, step, degree)
        else:
            first, end, member = zigzag(length, degree)
            self.home(document, first, end, rank + member, step)
            self.attend(document, first, end, rank + member, step)
        self.home(PADDING, 0, cost.slots(np.array([length]), degree)[0] - np.diff(edge), members, step)

    def done(self, steps: int, together: bool = False) -> Placement:
        """The Placement of what was added."""
        runs = [np.concatenate(parts, axis=1).astype(np.int64) for parts in (self._homes, self._attention)]
        homes, attention = (Runs(*x[:, x[2] > x[1]]) for x in runs)
        return Placement(self.ranks, steps, homes, attention, together)


def zigzag(length: int, degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first, end, member) i64 [2 * degree] each: an early and a late run for each of so many members, which have equal
    tokens up to one, and nearly equal pairs."""
    tokens = np.diff(length * np.arange(degree + 1) // degree)
    early, late = tokens - tokens // 2, tokens // 2
    first = np.concatenate([np.cumsum(early) - early, length - np.cumsum(late)])
    return first, first + np.concatenate([early, late]), np.tile(np.arange(degree), 2)


def groups(batches: list, lengths: np.ndarray, ranks: int, cost: Cost) -> Placement:
    """The Placement of groups of ranks: for each step [(degree, documents)], the widest groups on the first ranks."""
    draft = Draft(ranks)
    for step, batch in enumerate(batches):
        rank = 0
        for degree, documents in sorted(batch, key=lambda group: -group[0]):
            for document in documents:
                draft.spread(int(document), int(lengths[document]), rank, degree, step, cost)
            rank += degree
    return draft.done(len(batches))


def broken(placement: Placement, lengths: np.ndarray, capacity: int) -> str | None:
    """The first law that a placement breaks, in words; None where it keeps all of them.

    Each token lies in one place; each (query, key) pair of each document is computed exactly once for every head; no
    rank holds more than `capacity` tokens in a step; a document is in one step.
    """
    homes, attention = placement.homes, placement.attention
    for runs in (homes, attention):
        if not all(((0 <= x) & (x < n)).all() for x, n in ((runs.rank, placement.ranks), (runs.step, placement.steps))):
            return "a rank or a step that is not there"
    real = Runs(*(x[homes.document != PADDING] for x in homes))
    if not _tile(real.document, real.first, real.end, lengths):
        return "tokens lie in no place, or in several"
    split, count = np.unique(np.stack([attention.document, attention.first, attention.end, attention.parts]), axis=1,
                             return_counts=True)  # fmt: skip
    if (count != split[3]).any() or not _tile(split[0], split[1], split[2], lengths):
        return "pairs are computed never or several times"
    of_heads = np.stack([attention.document, attention.first, attention.rank])
    if np.unique(of_heads, axis=1).shape[1] != of_heads.shape[1]:
        return "heads of a run are on one rank twice"
    if (_tokens(placement) > capacity).any():
        return f"a rank holds {_tokens(placement).max():.0f} tokens, and has room for {capacity}"
    steps = np.unique(np.stack([np.concatenate([real[i], attention[i]]) for i in (0, 4)]), axis=1)
    return None if steps.shape[1] == len(lengths) else "a document is in several steps"


def _tile(document, first, end, lengths) -> bool:
    """Whether the runs cover every document from its first token to its last, each once."""
    order = np.lexsort((first, document))
    document, first, end = document[order], first[order], end[order]
    starts = np.diff(document, prepend=-1) > 0
    expected = np.where(starts, 0, np.append(0, end[:-1]))
    ends = np.append(starts[1:], True)
    return (
        np.array_equal(document[starts], np.arange(len(lengths)))
        and np.array_equal(first, expected)
        and np.array_equal(end[ends], lengths)
    )


@dataclasses.dataclass(frozen=True)
class Measures:
    """What follows from a Placement. Sums over steps of the busiest rank in each are divided by the mean over ranks.

    Attributes:
      attention, linear, both: work of attention, of linear layers (padding counts as work), of both.
      seconds: predicted time, with what is received and not hidden behind anything.
      ideal: seconds if all work of the documents were even and nothing were sent or padded.
      bytes: received by all ranks. bytes_most: by the rank that receives most, over all steps.
      padding: share of the places that hold no token.
    """

    attention: float
    linear: float
    both: float
    seconds: float
    ideal: float
    bytes: float
    bytes_most: float
    padding: float
    steps: int


def measure(placement: Placement, cost: Cost) -> Measures:
    """The Measures of a placement."""
    homes, runs = placement.homes, placement.attention
    work = (pairs(runs.end) - pairs(runs.first)) / runs.parts
    attention, linear = cost.pair * _by_rank(placement, runs, work), cost.token * _tokens(placement)
    real = (homes.end - homes.first)[homes.document != PADDING].sum()
    received, sending = _received(placement, cost)
    span = lambda x: x.max(axis=1).sum()
    wait = lambda first, second: span(first) + span(second) if placement.together else span(first + second)
    attention_mean, linear_mean = attention.sum() / placement.ranks, cost.token * real / placement.ranks
    ideal = attention_mean + linear_mean
    return Measures(
        attention=float(span(attention) / attention_mean),
        linear=float(span(linear) / linear_mean),
        both=float(wait(attention, linear) / ideal),
        seconds=float(wait(attention + sending, linear)),
        ideal=float(ideal),
        bytes=float(received.sum()),
        bytes_most=float(received.sum(axis=0).max()),
        padding=float(1 - real / _tokens(placement).sum()),
        steps=placement.steps,
    )


def _by_rank(placement, runs, values):
    """float64 [steps, ranks]: the sum of the runs' values."""
    at = runs.step * placement.ranks + runs.rank
    return np.bincount(at, values, placement.steps * placement.ranks).reshape(placement.steps, placement.ranks)


def _tokens(placement):
    """float64 [steps, ranks]: places that are computed on."""
    return _by_rank(placement, placement.homes, placement.homes.end - placement.homes.first)


def _received(placement, cost):
    """(bytes, seconds) [steps, ranks] to receive them: of queries that are attended from elsewhere than where they lie,
    and of all keys that they see. A document's bytes travel at the rate of the narrowest block of ranks that it is in.
    """
    real = Runs(*(x[placement.homes.document != PADDING] for x in placement.homes))
    runs, key = placement.attention, placement.attention.document * placement.ranks + placement.attention.rank
    held = _holdings(real.document * placement.ranks + real.rank, real.first, real.end)
    moved = runs.end - runs.first - held(key, runs.end) + held(key, runs.first)
    queries = moved * cost.query_bytes / runs.parts
    # a document's last run on a rank asks for the keys that all of them see
    last = np.lexsort((runs.end, key))
    last = last[np.append(np.diff(key[last]) > 0, True)]
    keys = np.zeros(len(key))
    share = np.where(runs.parts > 1, np.maximum(1 / runs.parts, 1 / cost.kv_heads), 1.0)
    keys[last] = ((runs.end - held(key, runs.end)) * share)[last] * cost.key_bytes
    rates = _rates(real, runs, cost)
    total = queries + keys
    return _by_rank(placement, runs, total), _by_rank(placement, runs, total / rates[runs.document])


def _holdings(key, first, end):
    """A function (key, x) -> tokens before position x in the runs of each key."""
    order = np.argsort(key * _FAR + first)
    key, first, size = key[order], first[order], (end - first)[order]
    before = np.concatenate([[0], np.cumsum(size)])
    place = key * _FAR + first

    def held(of, x):
        begin = np.searchsorted(place, of * _FAR)
        at = np.searchsorted(place, of * _FAR + x)  # runs that begin before x
        last = np.maximum(at - 1, 0)
        over = np.maximum(first[last] + size[last] - x, 0)
        return np.where(at > begin, before[at] - before[begin] - over, 0)

    return held


def _rates(homes, runs, cost):
    """The rate at which the bytes of each document travel."""
    document, rank = (np.concatenate([homes[i], runs[i]]) for i in (0, 3))
    low, high = np.full(document.max() + 1, _FAR), np.zeros(document.max() + 1, np.int64)
    np.minimum.at(low, document, rank)
    np.maximum.at(high, document, rank)
    rates = np.full(len(low), cost.rates[-1][1])
    for ranks, rate in reversed(cost.rates[:-1]):
        rates[low // ranks == high // ranks] = rate
    return rates
