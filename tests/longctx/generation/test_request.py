"""Token ids as they are given: what is none of the model's is refused, by the model, by generation, before anything."""

import numpy as np
import pytest

from longctx.errors import UserError
from longctx.generation.request import token_ids
from longctx.hf.api import Model
from tests.longctx.generation.helpers import TINY, setup

IDS = np.arange(12).reshape(2, 6)


@pytest.mark.parametrize(
    "ids, message",
    [
        (IDS + 30, "ids holds ids from 30 to 41; those of the model are from 0 to 31"),
        (IDS - 3, "ids from -3 to 8"),
        (IDS + 2**32, "ids from 4294967296"),
        ((IDS + 2**31).astype(np.uint32), "ids from 2147483648"),
        (IDS * 1.0, r"ids is float64\[2, 6\]; it must be token ids \[B, T\]"),
        (IDS > 3, r"ids is bool\[2, 6\]"),
        (IDS * 1j, "ids is complex128"),
        (IDS[0], r"ids is int64\[6\]"),
        (IDS[:, :0], r"ids is int64\[2, 0\]"),
        (None, "ids is object"),
        ([["a"]], "ids is <U1"),
    ],
)
def test_ids_that_no_model_knows(ids, message):
    mesh, _, params = setup(TINY)
    model = Model(TINY, params, mesh)
    for call in (model, lambda ids: model.generate(ids, 2) if isinstance(ids, np.ndarray) else model(ids)):
        with pytest.raises(UserError, match=message) as caught:
            call(ids)
        assert "\n" not in str(caught.value)


def test_rows_of_other_lengths_are_no_array():
    with pytest.raises(UserError, match="ids is no array"):
        token_ids("ids", [[1, 2], [1]], 32, "BT")


def test_ids_of_any_integers_are_the_models():
    for dtype in (np.int64, np.uint8, np.int32):
        got = token_ids("ids", IDS.astype(dtype), 32, "BT")
        assert got.dtype == np.int32 and (got == IDS).all()


def test_a_stop_that_no_model_gives_is_refused_and_a_folders_ends_beyond_the_embedding_are_not():
    mesh, _, params = setup(TINY)
    with pytest.raises(UserError, match="stop holds ids from 2 to 32; those of the model are from 0 to 31"):
        Model(TINY, params, mesh).generate(IDS, 2, stop=(2, 32))
    beyond = Model(TINY, params, mesh, ends=(32, 33)).generate(IDS, 2)
    np.testing.assert_array_equal(beyond, Model(TINY, params, mesh).generate(IDS, 2, stop=()))
