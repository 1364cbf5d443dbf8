import numpy as np
import pytest

from longctx.data import copying
from longctx.data.sources import Document
from longctx.data.tokenizers import ByteTokenizer

DOCUMENTS = [Document("a.txt", b"It was the best of times, it was the worst of times, " * 40), Document("b.txt", b"x")]


@pytest.mark.parametrize("longest", [64, 4096])
def test_each_document_repeats_its_first_piece_and_fits(longest):
    made = copying.training_documents(np.random.default_rng(0), ByteTokenizer(), 20_000, longest, DOCUMENTS)
    assert 20_000 <= sum(len(ids) + 2 for ids in made) < 20_000 + copying.LONGEST + 2
    for ids in made:
        assert copying.SHORTEST <= len(ids) <= min(longest - 2, copying.LONGEST)
        periods = [p for p in range(1, len(ids) // 2 + 2) if np.array_equal(ids[p:], ids[:-p])]
        assert periods, "no period of at most half the document"


def test_the_seed_decides():
    draw = lambda seed: copying.training_documents(np.random.default_rng(seed), ByteTokenizer(), 2000, 256, DOCUMENTS)
    assert all(np.array_equal(a, b) for a, b in zip(draw(1), draw(1), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(draw(1), draw(2), strict=False))
