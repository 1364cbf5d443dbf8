"""Settings that save memory in a step by autodiff change none of its numbers, after two steps."""

import dataclasses
import re

import jax
import pytest

from longctx import meshes, training
from longctx.config import LayerConfig, MemoryConfig, MeshConfig
from longctx.data import curriculum
from longctx.memory import host
from longctx.model import functional
from tests.helpers import nightly, slow
from tests.longctx.model.test_transformer import TINY
from tests.longctx.streaming.test_streamed import assert_as_autodiff, run_of

# 3 does not divide the tokens of a shard, and they have no such shares
ALL = MemoryConfig(mlp_tiles=3, loss_tiles=4, head_groups=2, offload=host.OF_WEIGHTS)
# two kinds of layers, a bias and sinks by head, biases of the feed-forward, the vocabulary and F cut over `tensor`
SHARES = dataclasses.replace(TINY, remat="tokens(0.3, 0.25)")
RICH = dataclasses.replace(
    SHARES,
    heads=8,
    kv_heads=4,
    mlp_bias=True,
    learned_sinks=True,
    logit_soft_cap=5.0,
    pattern=(LayerConfig(), LayerConfig(position="t5", feed_forward="plain")),
)
MIXTURE = dataclasses.replace(
    SHARES, feed_forward="gpt_oss", experts=4, experts_per_token=2, expert_mlp_dim=16, mlp_bias=True
)


@pytest.mark.parametrize(
    "model, mesh",
    [
        *slow((RICH, MeshConfig(fsdp=2, context=2, tensor=2))),
        *nightly((SHARES, MeshConfig(context=2)), (MIXTURE, MeshConfig(context=4))),
    ],
)
def test_all_at_once(model, mesh):
    assert_as_autodiff(run_of(model, mesh, ALL), mesh)


@pytest.mark.parametrize(
    "offload, mesh",
    [
        *slow((("params", "moments"), MeshConfig(fsdp=4))),
        *nightly(
            (("grads",), MeshConfig(context=4)),
            (("params",), MeshConfig()),
            (("grads", "moments"), MeshConfig()),
            (("params", "grads"), MeshConfig(tensor=2)),
        ),
    ],
)
def test_some_in_the_hosts_memory(offload, mesh):
    assert_as_autodiff(run_of(TINY, mesh, MemoryConfig(offload=offload)), mesh)


def stacks_in_jaxpr(offload, layers=5):
    """(on the device, on the host): how many arrays [layers, _, _, ...] a step makes there."""
    model = dataclasses.replace(TINY, layers=layers, remat="offload_layer")
    config = run_of(model, memory=MemoryConfig(offload=offload))
    mesh, stage = meshes.make(config.mesh), curriculum.plan(config)[0]
    given = training.abstract_state(config, mesh), training.abstract_batch(stage, mesh)
    with jax.set_mesh(mesh):
        graph = functional.graph(config.model, config.attention, config.memory)
        step = lambda *given: training.train_step(graph, config, lambda step: 0.1, stage.rope, *given)
        text = str(jax.make_jaxpr(step)(*given))
    return tuple(len(re.findall(rf"f32{memory}\[{layers},\d[^]]*,\d", text)) for memory in ("", "<host>"))


def test_what_is_in_the_hosts_memory_is_nowhere_whole_on_the_device():
    on_device, on_host = stacks_in_jaxpr(host.OF_WEIGHTS)
    assert on_device == 0 and on_host > 0
    for left in host.OF_WEIGHTS:
        assert stacks_in_jaxpr(set(host.OF_WEIGHTS) - {left})[0] > 0
