"""The closed forms of what strategies send, against the collectives of their jaxprs: equal to the byte."""

import itertools

import pytest

from longctx.context_parallel import api, cost
from longctx.context_parallel.plan import CallPlan
from pallas_kernels import masks
from tests.helpers import nightly
from tests.longctx.context_parallel.test_traffic import MIB, C, H, N, n, traffic

TWO_LEVELS = [name for name, strategy in api.STRATEGIES.items() if strategy.levels == 2]
STRATEGIES = [name for name in api.STRATEGIES if name not in ("local", "dispatch")]  # the latter's is a bound
CASES = [("causal & window(12000)", "contiguous", 32), ("causal", "zigzag", 8), ("full", "striped", 2)]


def closed(strategy, K, mask="causal", layout="contiguous", outer=1, kv_grads_dtype="bfloat16", documents=False):
    plan = CallPlan(strategy, "auto", (outer, C // outer), N, K, layout, documents, kv_grads_dtype)
    return api.cost(cost.Call(plan, masks.parse(mask), 1, n, H, "bfloat16"))


def sent(parts, of="bytes"):
    return sum(getattr(one.load, of) for one in parts)


def test_every_strategy_has_a_cost():
    for name, strategy in api.STRATEGIES.items():
        plan = CallPlan(name, "auto", (2 if strategy.levels == 2 else 1, 2), 4, 2, "contiguous")
        found = api.cost(cost.Call(plan, masks.Causal(), 1, 16, 8, "bfloat16"))
        assert (sent(found.forward + found.exchange) > 0) == (name != "local"), name


def every_strategy_and_every_case() -> list:
    """One case of each strategy, in turn; the nightly tier takes the rest."""
    first = [(name, *case) for name, case in zip(STRATEGIES, itertools.cycle(CASES), strict=False)]
    rest = [(name, *case) for name in STRATEGIES for case in CASES if (name, *case) not in first]
    return [*first, *nightly(*rest)]


@pytest.mark.parametrize("strategy, mask, layout, K", every_strategy_and_every_case())
def test_what_is_sent(strategy, mask, layout, K):
    asked = dict(mask=mask, layout=layout, outer=2 if strategy in TWO_LEVELS else 1)
    if strategy == "lightseq":  # causal masks over contiguous rows alone
        asked |= dict(mask=mask.replace("full", "causal"), layout="contiguous")
    found = closed(strategy, K, **asked)
    assert (sent(found.exchange + found.forward) / MIB, sent(found.backward) / MIB) == traffic(strategy, K, **asked)


def test_dispatch_sends_at_most_what_may_be_seen():
    all_keys, near = closed("dispatch", 8), closed("dispatch", 8, mask=f"causal & window({n})")
    assert sent(all_keys.forward) == sent(closed("all_gather", 8).exchange) == sent(near.forward) * (C - 1)
    assert sent(all_keys.backward) == sent(near.backward) * (C - 1)


@pytest.mark.parametrize("strategy", ["ring", "usp", *nightly("all_gather", "lightseq")])
def test_gradients_in_float32(strategy):
    outer = 2 if strategy in TWO_LEVELS else 1
    found = closed(strategy, 8, outer=outer, kv_grads_dtype="float32")
    assert sent(found.backward) / MIB == traffic(strategy, 8, outer=outer, kv_grads_dtype="float32")[1]


def test_the_published_forms():
    """MiB of 64K tokens on 8 devices, 32 query heads of 128, bfloat16: keys of 32 and of 8 heads."""
    where, rows = 8 * n / MIB, 4 * n * N / MIB  # of tokens: positions and segments; lse of each head
    forward = lambda strategy, K: sent(closed(strategy, K).exchange + closed(strategy, K).forward) / MIB
    backward = lambda strategy, K: sent(closed(strategy, K).backward) / MIB
    for K, ring, ulysses in ((32, 896, 224), (8, 224, 140)):
        assert forward("ring", K) == ring + 7 * where
        assert backward("ring", K) == 2 * ring + 7 * where
        assert forward("ulysses", K) == ulysses + 7 * where + 7 / 8 * rows
        assert backward("ulysses", K) == ulysses + 7 / 8 * 2 * rows


def test_steps_and_hops():
    steps = lambda strategy, **how: [
        (one.steps, one.hops) for part in ("forward", "backward") for one in getattr(closed(strategy, 8, **how), part)
    ]
    assert steps("ring", layout="zigzag") == [(7, 7), (8, 8)]  # back: a leap that is one hop, and 7 home
    assert steps("bidirectional_ring", layout="zigzag") == [(4, 4), (5, 8)]
    assert steps("ring", mask="causal & window(4096)") == [(1, 1), (2, 2)]
    assert steps("ring", documents=True) == [(7, 7), (9, 9)]
    assert steps("ulysses") == [(1, 7), (2, 14)]


def test_documents_are_taken_to_be_long():
    known, on_device = (closed("ring", 8, documents=documents) for documents in (False, True))
    assert on_device.forward == known.forward and sent(on_device.backward) > sent(known.backward)
