"""The choice of a token from its logits."""

import jax
import numpy as np
import pytest

from longctx.errors import UserError
from longctx.generation.sampling import sample

ROWS = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32) * 2


def draws(logits, count=400, **how):
    """count x [B] tokens, each by a key of its own."""
    draw = jax.jit(jax.vmap(lambda key: sample(logits, key, **how)))
    return np.asarray(draw(jax.random.split(jax.random.key(0), count)))


def test_greedy_is_the_largest_and_what_a_temperature_near_0_draws():
    largest = ROWS.argmax(-1)
    np.testing.assert_array_equal(sample(ROWS, None), largest)
    np.testing.assert_array_equal(draws(ROWS, 20, temperature=1e-3), np.tile(largest, (20, 1)))
    np.testing.assert_array_equal(draws(ROWS, 20, temperature=2.0, top_p=1e-6), np.tile(largest, (20, 1)))


@pytest.mark.parametrize(
    "temperature, top_p", [(1e-37, 1.0), (1e-38, 0.9), (1e-45, 1.0), (1e-300, 1.0), (1e-300, 1e-300), (1.0, 1e-45)]
)
def test_the_likeliest_token_at_the_ends_of_temperature_and_top_p(temperature, top_p):
    rows = np.concatenate([ROWS, 1e30 * ROWS[:1], np.where(np.arange(16) % 3, -np.inf, ROWS[:1])])
    want = np.tile(rows.argmax(-1), (20, 1))
    np.testing.assert_array_equal(draws(rows, 20, temperature=temperature, top_p=top_p), want)


def test_at_no_temperature_a_tie_stays_one_and_at_any_all_may_come():
    tie = np.array([[1.0, 3.0, 3.0, 0.0]], np.float32)
    assert set(draws(tie, 60, temperature=1e-300)[:, 0]) == {1, 2}
    assert set(draws(tie, 200, temperature=1e300)[:, 0]) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "logits, how, message",
    [
        (ROWS, dict(temperature=-1.0), "temperature=-1.0"),
        (ROWS, dict(temperature=float("nan")), "temperature=nan"),
        (ROWS, dict(temperature=1.0, top_p=0.0), "top_p=0.0"),
        (ROWS, dict(top_p=2), "top_p=2 must"),
        (ROWS, dict(temperature=1.0, top_k=-1), "top_k=-1"),
        (ROWS, dict(temperature=1.0, top_k=2.5), "top_k=2.5"),
        (ROWS, dict(temperature=1.0, min_p=1.1), "min_p=1.1"),
        (ROWS, dict(repetition_penalty=0.0), "repetition_penalty=0.0"),
        (ROWS, dict(top_k=3), "top_k=3 has no effect at temperature=0"),
        (ROWS, dict(top_p=0.9), "top_p=0.9 has no effect"),
        (ROWS, dict(min_p=0.1), "min_p=0.1 has no effect"),
        (ROWS[0], {}, r"logits float32\[16\]"),
        (ROWS.astype(int), {}, "logits int64"),
    ],
)
def test_what_cannot_be_sampled(logits, how, message):
    with pytest.raises(UserError, match=message):
        sample(logits, jax.random.key(0), **how)


@pytest.mark.parametrize("temperature, top_p", [(1.0, 0.5), (0.5, 0.9), (2.0, 0.8)])
def test_top_p_keeps_as_few_of_the_likeliest_as_have_that_much(temperature, top_p):
    drawn = draws(ROWS[:1], 2000, temperature=temperature, top_p=top_p)[:, 0]
    share = np.exp(ROWS[0].astype(np.float64) / temperature)
    order = np.argsort(-share)
    share = share[order] / share.sum()
    kept = order[: np.searchsorted(share.cumsum(), top_p) + 1]
    assert set(drawn) == set(kept)
    likely = share[: len(kept)] / share[: len(kept)].sum()
    often = np.array([(drawn == token).mean() for token in kept])
    assert (np.abs(often - likely) <= 5 * np.sqrt(likely / len(drawn))).all()  # standard errors


def test_the_same_key_draws_the_same_and_rows_do_not_depend_on_one_another():
    how = dict(temperature=1.0, top_p=0.9)
    once = draws(ROWS, 8, **how)
    np.testing.assert_array_equal(draws(ROWS, 8, **how), once)
    np.testing.assert_array_equal(draws(ROWS[:2], 8, **how), once[:, :2])
    assert len(np.unique(draws(np.tile(ROWS[:1], (5, 1)), 8, **how), axis=1).T) > 1  # nor are they alike


@pytest.mark.parametrize("how", [dict(top_k=3), dict(min_p=0.2), dict(top_k=9, min_p=0.05), dict(top_k=4, top_p=0.7)])
def test_only_the_likeliest_are_drawn(how):
    """By definition, in float64: of the top_k those that top_p keeps, and of all those that min_p keeps."""
    drawn = draws(ROWS[:1], 3000, temperature=2.0, **how)[:, 0]
    share = np.exp(ROWS[0].astype(np.float64) / 2)
    order = np.argsort(-share)
    first = order[: how.get("top_k", len(order))]
    of_first = share[first] / share[first].sum()
    kept = first[: np.searchsorted(of_first.cumsum(), how.get("top_p", 1.0)) + 1]
    kept = {token for token in kept if share[token] >= how.get("min_p", 0.0) * share.max()}
    assert set(drawn) == kept and 1 < len(kept) < len(order)


def test_tokens_that_were_seen_are_less_likely():
    logits = np.array([[2.0, 1.9, -1.0, -1.2]], np.float32)
    seen = np.array([[True, False, True, False]])
    assert sample(logits, None, seen, repetition_penalty=1.2).tolist() == [1]  # 2 / 1.2 = 1.67
    assert sample(logits, None, seen, repetition_penalty=1.01).tolist() == [0]
    assert sample(logits[:, 2:], None, seen[:, 2:], repetition_penalty=1.3).tolist() == [1]  # -1 * 1.3
