"""How alike pieces of tokens are: TF-IDF of hashed n-grams, and for each piece those that are most like it.

Weights are projected to a fixed number of dimensions and rounded to whole numbers so small that every product of two is
exact in float32, in whatever order a machine adds: the hosts of a run find the same neighbours, on other CPUs too.
"""

from collections.abc import Iterator

import numpy as np

from longctx.ragged import ragged_arange

MOST = 4096  # pieces that are compared with one another: of more, parts of this many by chance, so time grows linearly
GRAMS = 1, 4  # tokens: of a large vocabulary one is a word; of bytes four are a good part of one
READ = 4096  # tokens of a piece that are looked at
BUCKETS, DIMENSIONS = 18, 9  # as powers of two
SCALE = 500  # length of the rounded vectors: SCALE^2 * MOST stays below 2^31, and SCALE^2 below 2^24
HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / the golden ratio, odd: multiplied by it, high bits depend on all others
BLOCK_TOKENS, BLOCK_PIECES = 1 << 20, 512  # what is worked on at a time


def features(ids: np.ndarray, first: np.ndarray, length: np.ndarray) -> np.ndarray:
    """f32 [pieces, 2^DIMENSIONS]: whole numbers, of pieces ids[first:first + length]; at most MOST of them.

    The product of two is SCALE^2 times their cosine, about: the projection adds noise of 2^(-DIMENSIONS / 2) at most.
    """
    length = np.minimum(length, READ)
    blocks = list(_counted(ids, first, length))
    documents = sum((np.bincount(bucket, minlength=1 << BUCKETS) for _, bucket, _ in blocks), np.zeros(1 << BUCKETS))
    rarity = np.log(max(len(first), 1) / np.maximum(documents, 1))
    shared = rarity * (documents > 1)  # what a single piece has is part of its length, and of no product
    mixed = np.arange(1, (1 << BUCKETS) + 1, dtype=np.uint64) * HASH
    place = (mixed >> np.uint64(64 - DIMENSIONS)).astype(np.int64)
    sign = (mixed >> np.uint64(63 - DIMENSIONS) & np.uint64(1)).astype(np.float64) * 2 - 1
    made, norm = np.zeros((len(first), 1 << DIMENSIONS)), np.zeros((len(first), 1))
    for piece, bucket, count in blocks:
        low, pieces, often = piece[0], piece[-1] + 1 - piece[0], 1 + np.log(count)
        where = (piece - low) * made.shape[1] + place[bucket]
        weight = sign[bucket] * shared[bucket] * often
        made[low : low + pieces] = np.bincount(where, weight, pieces * made.shape[1]).reshape(pieces, -1)
        norm[low : low + pieces, 0] = np.sqrt(np.bincount(piece - low, (rarity[bucket] * often) ** 2))
    return scaled(made, np.maximum(norm, np.linalg.norm(made, axis=1, keepdims=True)))  # some are made longer


def scaled(vectors: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """f32: vectors [pieces, d] of the given lengths [pieces, 1] as whole numbers of length SCALE, about; 0 stays 0."""
    return np.rint(vectors * (SCALE / np.where(norm > 0, norm, 1))).astype(np.float32)


def _counted(ids: np.ndarray, first: np.ndarray, length: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields (piece, bucket of an n-gram, how often it is in there) of some pieces at a time, sorted by piece."""
    ends = np.cumsum(length)
    for block in np.split(np.arange(len(first)), np.flatnonzero(np.diff(ends // BLOCK_TOKENS)) + 1):
        if not len(block):
            continue
        piece = np.repeat(block, length[block])
        token = ids[np.repeat(first[block], length[block]) + ragged_arange(length[block])].astype(np.uint64)
        keys = []
        for n in GRAMS:
            grams = max(len(token) - n + 1, 0)
            hashed = np.full(grams, n, np.uint64)
            for i in range(n):
                hashed = (hashed + token[i : i + grams]) * HASH
            within = piece[:grams] == piece[n - 1 :]
            keys.append((piece[:grams] << BUCKETS | (hashed >> np.uint64(64 - BUCKETS)).astype(np.int64))[within])
        key, count = np.unique(np.concatenate(keys).astype(np.int32), return_counts=True)
        yield key >> BUCKETS, key & (1 << BUCKETS) - 1, count


def nearest(made: np.ndarray, k: int, owner: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(i64 [pieces, k], i32 [pieces, k]): for each piece those most like it, best first, and their products.

    made: features. owner: no piece of the same owner is a neighbour; None: only a piece itself is none. -1 stands where
    no further piece is like it at all; of pieces equally alike the one with the smaller number comes first.
    """
    count = len(made)
    k, owner = min(k, count), np.arange(count) if owner is None else owner
    found, behind = np.full((count, k), -1, np.int64), np.arange(count - 1, -1, -1, dtype=np.int32)
    alike = np.zeros((count, k), np.int32)
    for low in range(0, count, BLOCK_PIECES):
        block = slice(low, min(low + BLOCK_PIECES, count))
        product = (made[block] @ made.T).astype(np.int32)
        product[owner[block, None] == owner] = 0
        key = np.maximum(product, 0) * np.int32(count) + behind  # no two are equal, so there is one best k
        best = -np.sort(-np.partition(key, count - k, axis=1)[:, count - k :], axis=1)
        alike[block] = best // count
        found[block] = np.where(best >= count, count - 1 - best % count, -1)
    return found, alike
