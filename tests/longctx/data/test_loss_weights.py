"""Weights of documents in the loss; tests/longctx/model/test_transformer.py has the gradients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx.data import loss_weights
from longctx.errors import UserError


@given(st.lists(st.lists(st.integers(1, 6), max_size=4), min_size=1, max_size=3), st.sampled_from([1.0, 0.5, 0.0]))
def test_a_document_counts_a_power_of_its_targets(rows, exponent):
    rng, width = np.random.default_rng(0), 26
    kinds = {"segments": np.int32, "weights": np.float32}
    batch = {name: np.zeros((len(rows), width), kind) for name, kind in kinds.items()}
    for row, lengths in enumerate(rows):
        ends = np.cumsum([0, *lengths])
        for i, length in enumerate(lengths):
            batch["segments"][row, ends[i] : ends[i + 1]] = i + 1
            batch["weights"][row, ends[i] : ends[i + 1]] = np.arange(length) % 3 != 2  # some targets do not count
    nll = rng.random(batch["weights"].shape)
    got = loss_weights.weighted(batch, exponent)["weights"]
    counts, means = [], []
    for row in range(len(rows)):
        for segment in range(1, batch["segments"][row].max() + 1):
            counted = (batch["segments"][row] == segment) & (batch["weights"][row] > 0)
            counts.append(counted.sum() ** exponent)
            means.append(nll[row, counted].mean())
            np.testing.assert_allclose(got[row, batch["segments"][row] == segment].sum(), counts[-1], rtol=1e-5)
    if counts:
        np.testing.assert_allclose((nll * got).sum() / got.sum(), np.average(means, weights=counts), rtol=1e-5)
    assert not got[batch["segments"] == 0].any() and got.dtype == np.float32


def test_names():
    of = lambda text: loss_weights.parse(text).exponent
    assert (of("tokens"), of("sequences"), of("documents(0.5)"), of("documents(0)")) == (1, 0, 0.5, 0)
    for text, words in (
        ("sequence", "data.loss_weights='sequence' is not known. Did you mean 'sequences'?"),
        ("documents", r"must be documents\(exponent: float\)"),
        ("tokens(1)", "must be tokens alone"),
    ):
        with pytest.raises(UserError, match=words):
            loss_weights.parse(text)
