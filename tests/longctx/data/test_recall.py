import numpy as np
import pytest

from longctx.config import RecallConfig, RopeConfig
from longctx.data.curriculum import Stage
from longctx.data.generated import recall
from longctx.data.pipeline import BatchStream
from longctx.errors import UserError

TASK = RecallConfig(needles=4, key_tokens=9, value_tokens=5, filler_tokens=3)


@pytest.mark.parametrize("length", [16, 17, 100])
def test_needles_are_where_they_are_said_to_be_and_the_rest_is_filler(length):
    for seed in range(30):
        ids, place = recall.row(np.random.default_rng(seed), TASK, length)
        asked = recall.questions(TASK, length)
        assert len(ids) == length + 1 and asked[-1] == length - 1
        assert (ids[place] == ids[asked]).all() and (ids[place + 1] == ids[asked + 1]).all()
        assert (ids[place] < 9).all() and len(set(ids[place])) == 4
        assert ((9 <= ids[place + 1]) & (ids[place + 1] < 14)).all()
        filler = np.delete(ids[: asked[0]], [*place, *place + 1])
        assert len(filler) == asked[0] - 8 and ((14 <= filler) & (filler < recall.vocab_size(TASK))).all()


def test_every_place_comes_up_and_values_are_uniform():
    rows = [recall.row(np.random.default_rng(seed), TASK, 40) for seed in range(1000)]
    starts = np.bincount(np.concatenate([place for _, place in rows]), minlength=32)
    assert (starts[:32] > 0).all() and starts[32:].sum() == 0
    values = np.bincount(np.concatenate([ids[place + 1] for ids, place in rows]) - 9, minlength=5)
    assert (abs(values / 4000 - 1 / 5) < 4 * (0.2 * 0.8 / 4000) ** 0.5).all()  # four standard errors


def test_batches_ask_for_the_values_alone_and_the_seed_decides():
    rows = recall.RecallRows(TASK, 24, seed=3)
    stage = Stage(0, 0, 2, 24, 2, RopeConfig(), "continue", 1.0)
    first, again = (next(BatchStream(rows, stage, seed=3, prefetch=0)) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert first["tokens"].shape == (2, 24) and (first["segments"] == 1).all()
    assert (first["positions"] == np.arange(24)).all()
    assert (np.flatnonzero(first["weights"][0]) == recall.questions(TASK, 24)).all()
    assert (first["targets"][:, :-1] == first["tokens"][:, 1:]).all()
    other = recall.RecallRows(TASK, 24, seed=4)
    assert not np.array_equal(rows.gather(np.arange(2))["tokens"], other.gather(np.arange(2))["tokens"])
    assert rows.fingerprint == recall.RecallRows(TASK, 24, seed=3).fingerprint != other.fingerprint


@pytest.mark.parametrize(
    "task, length, words",
    [
        (TASK, 15, "stages[0].seq_len=15 must be at least 16"),
        (RecallConfig(key_tokens=7), 64, "recall.key_tokens=7 must be at least recall.needles=8"),
        (RecallConfig(value_tokens=0), 64, "must all be at least 1"),
    ],
)
def test_bad_settings_are_refused(task, length, words):
    with pytest.raises(UserError) as caught:
        recall.check(task, length, "stages[0].seq_len")
    assert words in str(caught.value)
