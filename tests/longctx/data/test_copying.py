import numpy as np
import pytest

from longctx.data.generated import copying
from longctx.data.tokenizers import ByteTokenizer


def document(seed, tokens):
    return copying.Copying(0.1).document(np.random.default_rng(seed), ByteTokenizer(), tokens, documents=[]).ids


@pytest.mark.parametrize("tokens", [copying.SHORTEST, 63, copying.LONGEST])
def test_each_document_repeats_its_first_digits(tokens):
    low, high = copying.PERIODS
    for seed in range(20):
        ids = document(seed, tokens)
        assert len(ids) == tokens and bytes(ids.astype(np.uint8)).isdigit()
        assert any(np.array_equal(ids[p:], ids[:-p]) for p in range(low, high + 1)), "no period"


def test_the_seed_decides():
    assert np.array_equal(document(1, 200), document(1, 200))
    assert not np.array_equal(document(1, 200), document(2, 200))
