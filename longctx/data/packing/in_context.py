"""In-Context Pretraining (Shi et al. 2023, arXiv 2310.10638): documents that are alike stand in one row, and see.

Every document is joined to the NEIGHBOURS most like it. A walk starts at the document with the fewest neighbours and
goes on to the most similar one that it has not been at; where there is none, it starts again. The documents lie in the
order of the walk, cut wherever a row is full, and those of a row are one document to the model.

A document that is nearly the one before it in the walk is left out and counted. What differs from the published code:
features are TF-IDF of hashed n-grams, unless a file has a model's embeddings (embeddings.py); near duplicates are told
by the first HEAD tokens instead of characters, and by their features too, so that a common licence leaves no file out;
every token's target is the next one of its own document.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from longctx.data.packing import similarity
from longctx.data.packing.packing import Packing, Text, check, full_rows

NEIGHBOURS = 10
Same = Callable[[int, int], bool]  # (number of a document, another one) -> whether they are nearly the same
HEAD, SAME = 100, 0.85  # near duplicates: the Jaccard index of the 3-grams of the first HEAD tokens is at least SAME,
ALIKE = 0.7  # and the cosine at least this, which leaves room for the noise of features


def pack(text: Text, capacity: int, rng: np.random.Generator) -> Packing:
    """Packs documents into rows, the most similar next to each other.

    Of more than similarity.MOST documents, parts of at most so many are drawn, and each is walked on its own: the time
    is that of `MOST * dimensions` products for each document, the memory that of one part.
    """
    lengths = check(text.inputs, capacity)
    drawn = rng.permutation(len(lengths))  # equals in a walk go by the number in their part, which is drawn too
    order = [walk(text, part) for part in np.array_split(drawn, max(-(-len(drawn) // similarity.MOST), 1))]
    order = np.concatenate(order)
    left_out = int(lengths.sum() - lengths[order].sum())
    return full_rows(capacity, order, np.zeros_like(order), lengths[order], left_out, joined=True)


def walk(text: Text, documents: np.ndarray) -> np.ndarray:
    """The given documents in the order of the walk, without near duplicates."""
    first, length = text.starts[documents], text.inputs[documents]
    given = text.embeddings
    made = given.features(documents) if given else similarity.features(text.ids, first, length)
    graph = _graph(*similarity.nearest(made, NEIGHBOURS))
    return documents[np.array(path(*graph, _near_duplicates(made, text.ids, first, length)), np.int64)]


def path(neighbours: Sequence[np.ndarray], degrees: np.ndarray, same: Same) -> list[int]:
    """The numbers of documents in the order of the walk. neighbours: of each, most similar first; degrees: how many."""
    order, left = [], np.ones(len(degrees), bool)
    for start in np.argsort(degrees, kind="stable").tolist():
        candidates = iter([start])
        while (at := next((one for one in candidates if left[one]), None)) is not None:
            left[at] = False
            if not order or not same(order[-1], at):
                order.append(at)
                candidates = iter(neighbours[at].tolist())
    return order


def _graph(found: np.ndarray, alike: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """(the neighbours of each in either direction, most similar first; how many they are)."""
    one = np.repeat(np.arange(len(found)), found.shape[1])[found.ravel() >= 0]
    other, alike = (x.ravel()[found.ravel() >= 0] for x in (found, alike))
    edges = np.concatenate([np.stack([one, -alike, other]), np.stack([other, -alike, one])], axis=1)
    edges = edges[:, np.lexsort(edges[::-1])]  # by document, then by similarity
    edges = edges[:, np.diff(edges, axis=1, prepend=-1).any(axis=0)]  # each once, where both are neighbours
    degrees = np.bincount(edges[0], minlength=len(found))
    return np.split(edges[2], np.cumsum(degrees)[:-1]), degrees


def _near_duplicates(made: np.ndarray, ids: np.ndarray, first: np.ndarray, length: np.ndarray) -> Same:
    """What tells near duplicates. A document without 3-grams is none."""

    @functools.cache
    def grams(number: int) -> frozenset[tuple[int, int, int]]:
        head = ids[first[number] : first[number] + min(HEAD, length[number])].tolist()
        return frozenset(zip(head, head[1:], head[2:], strict=False))

    def same(one: int, other: int) -> bool:
        a, b = grams(one), grams(other)
        alike = bool(a and b) and len(a & b) >= SAME * len(a | b)
        return alike and float(made[one] @ made[other]) >= ALIKE * similarity.SCALE**2

    return same
