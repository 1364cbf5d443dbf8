"""What saves memory in a step by autodiff changes none of its numbers: against the step without, after two steps."""
import dataclasses

import pytest

from longctx.config import LayerConfig, MemoryConfig, MeshConfig
from tests.helpers import slow
from tests.longctx.model.test_transformer import TINY
from tests.longctx.streaming.test_streamed import assert_as_autodiff, run_of

# 3 does not divide the tokens of a shard, and they have no such shares
ALL = MemoryConfig(mlp_tiles=3, loss_tiles=4, head_groups=2, offload=("moments",))
# two kinds of layers, a bias and sinks by head, biases of the feed-forward, the vocabulary and F cut over `tensor`
SHARES = dataclasses.replace(TINY, remat="tokens(0.3, 0.25)")
RICH = dataclasses.replace(SHARES, heads=8, key_heads=4, mlp_bias=True, learned_sinks=True, logit_soft_cap=5.0,
                           pattern=(LayerConfig(), LayerConfig(position="t5", feed_forward="plain")))
MIXTURE = dataclasses.replace(SHARES, feed_forward="gpt_oss", experts=4, experts_per_token=2, expert_mlp=16,
                              mlp_bias=True)


@pytest.mark.parametrize("model, mesh", [
    (RICH, MeshConfig(fsdp=2, context=2, tensor=2)),
    *slow((SHARES, MeshConfig()), (MIXTURE, MeshConfig(context=4)))])
def test_all_at_once(model, mesh):
    assert_as_autodiff(run_of(model, mesh, ALL), mesh)
