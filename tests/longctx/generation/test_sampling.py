"""How a token is chosen, from logits alone."""
import jax
import numpy as np
import pytest

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


@pytest.mark.parametrize("temperature, top_p", [(1.0, 0.5), (0.5, 0.9), (2.0, 0.8)])
def test_top_p_keeps_as_few_of_the_likeliest_as_have_that_much(temperature, top_p):
    drawn = draws(ROWS[:1], 2000, temperature=temperature, top_p=top_p)[:, 0]
    share = np.exp(ROWS[0].astype(np.float64) / temperature)
    order = np.argsort(-share)
    share = share[order] / share.sum()
    kept = order[:np.searchsorted(share.cumsum(), top_p) + 1]
    assert set(drawn) == set(kept)
    likely = share[:len(kept)] / share[:len(kept)].sum()
    often = np.array([(drawn == token).mean() for token in kept])
    assert (np.abs(often - likely) <= 5 * np.sqrt(likely / len(drawn))).all()       # standard errors


def test_the_same_key_draws_the_same_and_rows_do_not_depend_on_one_another():
    how = dict(temperature=1.0, top_p=0.9)
    once = draws(ROWS, 8, **how)
    np.testing.assert_array_equal(draws(ROWS, 8, **how), once)
    np.testing.assert_array_equal(draws(ROWS[:2], 8, **how), once[:, :2])
    assert len(np.unique(draws(np.tile(ROWS[:1], (5, 1)), 8, **how), axis=1).T) > 1        # nor are they alike
