import numpy as np
import pytest

from longctx.data.generated import copying
from longctx.data.tokenizers import ByteTokenizer


def documents(seed, tokens, longest):
    rng = np.random.default_rng(seed)
    return copying.Copying(0.1).training_documents(rng, ByteTokenizer(), tokens, longest, documents=[])


@pytest.mark.parametrize("longest", [64, 4096])
def test_each_document_repeats_its_first_digits_and_fits(longest):
    made = documents(0, 20_000, longest)
    assert 20_000 <= sum(len(ids) + 2 for ids in made) < 20_000 + copying.LONGEST + 2
    for ids in made:
        assert copying.SHORTEST <= len(ids) <= min(longest - 1, copying.LONGEST)
        assert bytes(ids.astype(np.uint8)).isdigit()
        low, high = copying.PERIODS
        assert any(np.array_equal(ids[p:], ids[:-p]) for p in range(low, high + 1)), "no period"


def test_the_seed_decides():
    assert all(np.array_equal(a, b) for a, b in zip(documents(1, 2000, 256), documents(1, 2000, 256), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(documents(1, 2000, 256), documents(2, 2000, 256), strict=False))
