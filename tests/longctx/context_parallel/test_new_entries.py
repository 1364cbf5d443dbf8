"""One file and one line in a dict add a mask, or a context-parallel strategy: nothing else has to know of them."""

import pytest

from experiments.planner import auto
from longctx.config import AttentionConfig, Config, MeshConfig, StageConfig
from longctx.context_parallel import api, checks
from pallas_kernels import masks
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.triton import kernel as triton
from tests.helpers import imported, packed, problem
from tests.longctx.context_parallel.cut import check

MASK = '''
"""A mask of evenly spaced keys."""

import dataclasses

from pallas_kernels.masks import Mask


@dataclasses.dataclass(frozen=True)
class Toy(Mask):
    """A query sees the keys whose distance is a multiple of `size`."""

    size: int

    def visible(self, q, k):
        return (q.positions - k.positions) % self.size == 0

    def relation(self, q, k):
        far = (q.pos_min > k.pos_max) & (q.pos_max - k.pos_min < self.size)
        return far, (q.pos_min == q.pos_max) & (k.pos_min == k.pos_max) & (q.pos_min == k.pos_min)
'''

STRATEGY = '''
"""A strategy that gathers all keys and attends to them half by half."""

import dataclasses

import jax

from longctx.context_parallel.collectives import gather
from longctx.context_parallel.cost import GATHER, SCATTER, Cost
from longctx.context_parallel.plan import BOTH
from longctx.context_parallel.strategy import KeyBlock, Strategy
from pallas_kernels.attention.pair import Grads, cast, neutral
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Toy(Strategy):
    """All keys on every shard, in two halves one after the other."""

    waits = "tiles"
    inside: Strategy

    @classmethod
    def make(cls, kernel, plan):
        return cls(kernel)

    def exchange(self, x):
        return gather(KeyBlock.of(x), BOTH).put(x)

    def halves(self, x):
        cut = x.k.shape[1] // 2
        part = lambda some: KeyBlock.of(x)._replace(
            k=x.k[:, some], v=x.v[:, some], info=jax.tree.map(lambda a: a[:, some], x.k_info)).put(x)
        return part(slice(cut)), part(slice(cut, None))

    def forward(self, x, spec, initial=None):
        partial, pair = dataclasses.replace(spec, partial=True), initial
        for half in self.halves(x):
            pair = self.inside.forward(half, partial, pair)
        return cast(pair, spec.result_dtype(x.q))

    def backward(self, x, spec, stats):
        partial = dataclasses.replace(spec, partial=True)
        first, second = (self.inside.backward(half, partial, stats) for half in self.halves(x))
        home = lambda a, b: jax.lax.psum_scatter(
            jnp.concatenate([a, b], 1), BOTH, scatter_dimension=1, tiled=True)
        grads = Grads(first.dq + second.dq, home(first.dk, second.dk), home(first.dv, second.dv))
        return spec.rounded(grads, x)

    def cost(self, call):
        others = call.plan.size(BOTH) - 1
        return Cost(exchange=call.sent(GATHER, BOTH, others * call.block),
                    backward=call.sent(SCATTER, BOTH, others * call.block_grads))
'''


@pytest.fixture
def toys(tmp_path, monkeypatch):
    monkeypatch.setitem(masks.NAMES, "toy", imported(tmp_path, "toy_mask", MASK))
    monkeypatch.setitem(api.STRATEGIES, "toy", imported(tmp_path, "toy_strategy", STRATEGY))


@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
def test_a_new_mask_and_a_new_strategy_are_exact(toys, layout):
    p = problem(T=64, infos=2 * (packed(0, 2, 64),))
    check(p, "causal & (toy(3) | window(4))", MeshConfig(context=4), layout, strategy="toy", kernel="chunked")


def test_a_new_mask_goes_round_a_ring_and_is_left_out_by_kernels_that_do_not_know_it(toys):
    p = problem(T=64)
    check(p, "causal & toy(5)", MeshConfig(context=4), "zigzag", strategy="ring", kernel="chunked")
    spec = AttentionSpec(masks.parse("causal & toy(5)"))
    assert "does not know the mask Toy" in triton.why_not_mask(spec.mask)


def test_a_new_strategy_is_checked_and_weighed_by_name(toys):
    config = Config(
        attention=AttentionConfig(strategy="toy"),
        mesh=MeshConfig(context=4, simulate=4),
        stages=(StageConfig(seq_len=256, steps=1),),
    )
    checks.check(config)
    assert "toy" in auto._strategies(config)
