"""Windows that grow with the steps, and documents that are cut by them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx.config import Config, StageConfig
from longctx.data import curriculum, windows
from longctx.errors import UserError


def stage(window: str, steps=40, seq_len=256) -> curriculum.Stage:
    config = Config(batch_tokens=seq_len, stages=(StageConfig(seq_len=seq_len, steps=steps, window=window),))
    return curriculum.plan(config)[0]


@pytest.mark.parametrize("form", windows.FORMS)
@given(st.integers(1, 256), st.floats(0.01, 1), st.integers(1, 64), st.integers(1, 60))
def test_a_window_grows_from_its_start_to_the_row(form, start, share, multiple, steps):
    found = windows.table(stage(f"{form}({start}, {share:.2f}, {multiple})", steps))
    way = max(1, round(float(f"{share:.2f}") * steps))
    assert found[0] == start and (np.diff(found) >= 0).all() and (found[way:] == 256).all() and found.max() <= 256
    assert all(tokens in (start, 256) or tokens % multiple == 0 for tokens in found)


def test_forms():
    at = {form: windows.table(stage(f"{form}(16, 1)", 100, 1024))[[0, 25, 50, 75]].tolist() for form in windows.FORMS}
    assert at["linear"] == [16, 268, 520, 772]
    assert at["sin"] == [16, 401, 728, 947] and at["cos"] == [16, 163, 520, 876]
    steps = np.array([0, 25, 50, 75])
    np.testing.assert_allclose(at["exp"], 16 * 64 ** (steps / 100), atol=1)
    np.testing.assert_allclose(at["log"], 16 * 64 ** (np.log(1 + steps) / np.log(101)), atol=1)
    assert windows.table(stage("none", 3)).tolist() == [256] * 3


rows_of_documents = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=3)


@given(rows_of_documents, st.integers(1, 14))
def test_documents_are_cut_and_nothing_else_changes(rows, tokens):
    width = 50
    batch = {name: np.zeros((len(rows), width), np.int32) for name in ("segments", "positions")}
    batch["tokens"] = np.arange(len(rows) * width, dtype=np.int32).reshape(len(rows), width)
    want = {name: x.copy() for name, x in batch.items()}
    for row, lengths in enumerate(rows):
        place, piece = 0, 0
        for document, length in enumerate(lengths):
            for i in range(length):
                batch["segments"][row, place], batch["positions"][row, place] = document + 1, i
                piece += i % tokens == 0
                want["segments"][row, place], want["positions"][row, place] = piece, i % tokens
                place += 1
    got = windows.cut(batch, tokens)
    for name, x in want.items():
        np.testing.assert_array_equal(got[name], x)
        assert got[name].dtype == x.dtype


@pytest.mark.parametrize(
    "window, words",
    [
        ("linar(8, 0.5)", "stages.0..window='linar' is not known. Did you mean 'linear'"),
        ("linear", r"must be linear\(start: int, share: float, multiple: int\)"),
        ("sin(8, 1.5)", "1.5 is a share of the steps"),
        ("exp(512, 0.5)", "begins with 512 tokens, and stages.0..seq_len=256"),
    ],
)
def test_windows_that_cannot_be(window, words):
    with pytest.raises(UserError, match=words):
        windows.check((dataclasses.replace(stage("none"), window=window),))
