"""NExtLong (Gao et al. 2025, arXiv 2501.12766): a document in chunks, and behind each those of others most like it.

What a document needs stands as far apart as a row is long, with what is easily mistaken for it between. Each chunk is
followed by its hard negatives until the row is full, and a row is one document to the model. What differs from the
published code: chunks are cut by tokens instead of at the ends of lines; similarity is TF-IDF of hashed n-grams instead
of a model's embeddings; a chunk is used once, as a negative or in its own document, where what is left stands together
at its turn; every token's target is the next one of its own document.
"""

import itertools

import numpy as np

from longctx.data.packing import similarity
from longctx.data.packing.packing import Packing, Text, check, full_rows

CHUNK = 512  # tokens: 2048 characters (published) at four characters a token; in short rows a quarter of a row
CANDIDATES = 32  # negatives of a chunk at most


def pack(text: Text, capacity: int, rng: np.random.Generator) -> Packing:
    """Packs documents in a drawn order, each filled up to the end of a row with what is most like its chunks.

    Where negatives run out, the next document begins in the same row; one longer than a row is cut where it is full.
    Chunks are compared in parts of at most similarity.MOST, in the order of documents: the time is that of
    `MOST * dimensions` products for each chunk, the memory that of one part.
    """
    lengths, size = check(text.inputs, capacity), min(CHUNK, -(-capacity // 4))
    drawn = rng.permutation(len(lengths))
    counts = -(-lengths[drawn] // size)
    document = np.repeat(drawn, counts)
    start = (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)) * size
    length = np.minimum(lengths[document] - start, size)
    order, begun = [np.zeros(0, np.int64)], 0
    for part in np.array_split(np.arange(len(document)), max(-(-len(document) // similarity.MOST), 1)):
        made = similarity.features(text.ids, text.starts[document[part]] + start[part], length[part])
        neighbours, _ = similarity.nearest(made, CANDIDATES, document[part])
        order.append(part[extended(document[part], length[part], neighbours, begun, capacity)])
        begun += int(length[part].sum())
    order = np.concatenate(order)
    return full_rows(capacity, document[order], start[order], length[order], joined=True)


def extended(document: np.ndarray, length: np.ndarray, neighbours: np.ndarray, begun: int, capacity: int) -> np.ndarray:
    """The order of chunks, each of them once. begun: tokens that lie in rows before them."""
    order, used, sizes = [], [False] * len(document), length.tolist()
    bounds = [*np.flatnonzero(np.diff(document, prepend=-1)).tolist(), len(document)]
    for first, end in itertools.pairwise(bounds):
        own = [chunk for chunk in range(first, end) if not used[chunk]]
        if not own:
            continue
        tokens = sum(sizes[chunk] for chunk in own)
        room = -(begun + tokens) % capacity  # up to the end of the row in which the document alone would end
        begun += tokens
        each = -(-room // (len(own) * max(sizes[chunk] for chunk in own)))
        for chunk in own:
            order.append(chunk)
            used[chunk] = True
            fitting = (one for one in neighbours[chunk].tolist() if one >= 0 and not used[one])
            for other, _ in zip(fitting, range(each), strict=False):
                if sizes[other] > room:
                    break
                order.append(other)
                used[other] = True
                room, begun = room - sizes[other], begun + sizes[other]
    return np.array(order, np.int64)
