"""One file and one line in a dict add a RoPE scaling, or a feed-forward layer: nothing else has to know of them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from experiments.planner.work import work
from experiments.settings import config as configs
from experiments.settings import unread
from experiments.settings.checks import check_settings
from longctx import meshes, optim, training
from longctx.config import Config, MemoryConfig, MeshConfig, OptimConfig, RopeConfig, StageConfig
from longctx.data import curriculum
from longctx.errors import UserError
from longctx.model import block, functional
from longctx.positions import api, scalings
from tests.helpers import ROOT, assert_close, imported
from tests.longctx.model.test_transformer import TINY, batch

SCALING = '''
"""A scaling with a number of its own, and one that RopeConfig has."""

import dataclasses

from longctx.positions.scalings import Scaling


@dataclasses.dataclass(frozen=True)
class Toy(Scaling):
    """Every other pair is divided by s, and cos and sin by `strength`."""

    factor: float
    strength: int

    def frequencies(self, rotation, length):
        theta = rotation.frequencies()
        theta[::2] /= self.factor
        return theta, 1 / self.strength

    def why_not(self, rotation):
        return f"scaling: strength={self.strength} must be below 9" if self.strength > 8 else None
'''

FEED_FORWARD = '''
"""A feed-forward layer with weights of its own names."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from longctx.model.linear import constant, weight
from longctx.model.mlp import TokenWise


class Toy(TokenWise):
    """leave(relu(enter(x))^2) + shift (Primer, arXiv 2109.08668)."""

    def __init__(self, key, config, size, memory):
        super().__init__(config, memory)
        first, last = jax.random.split(key)
        D, dtype = config.d_model, config.param_dtype
        self.enter = weight(first, (D, size), P("fsdp", "tensor"), D, dtype)
        self.leave = weight(last, (size, D), P("tensor", "fsdp"), size * 2 * config.layers, dtype)
        self.shift = constant(0.0, (D,), P(None), dtype)

    def local(self, w, x, share):
        hidden = jnp.square(jax.nn.relu(checkpoint_name(x @ w["enter"], share).astype(jnp.float32)))
        return jax.lax.psum(hidden.astype(x.dtype) @ w["leave"], "tensor") + w["shift"][None]
'''


@pytest.fixture
def toys(tmp_path, monkeypatch):
    monkeypatch.setitem(scalings.SCALINGS, "toy", imported(tmp_path, "toy_scaling", SCALING))
    monkeypatch.setitem(block.FEED_FORWARDS, "toy", imported(tmp_path, "toy_feed_forward", FEED_FORWARD))


def config_of(mesh: MeshConfig, **memory) -> Config:
    rope = RopeConfig(theta=100.0, scaling="toy(2)", factor=4.0)
    return Config(
        batch_tokens=128,
        stages=(StageConfig(seq_len=32, steps=10),),
        optim=OptimConfig(warmup_steps=2, weight_decay=0.5),
        model=dataclasses.replace(TINY, rope=rope, feed_forward="toy"),
        mesh=mesh,
        memory=MemoryConfig(**memory),
    )


def trained(config: Config):
    """(losses of two steps, the parameters after them)."""
    mesh, stages = meshes.make(config.mesh), curriculum.plan(config)
    step = training.compile_step(config, optim.learning_rate(config.optim, stages), stages[0], mesh)
    state, losses = training.init_state(config, mesh), []
    for _ in range(2):
        state, metrics = step(state, meshes.put_batch(batch(), mesh))
        losses.append(float(metrics["loss"]))
    return np.array(losses), jax.tree.map(np.asarray, state["params"])


@pytest.mark.slow
def test_a_step_is_the_same_on_every_mesh(toys):
    cut, alone = MeshConfig(fsdp=2, tensor=2), MeshConfig()
    want = trained(config_of(alone))
    assert_close(trained(config_of(cut)), want, "float32", 1000)
    assert_close(trained(config_of(cut, backward="streamed", chunk_tokens=16)), want, "float32", 1000)


def test_its_weights_are_stored_and_decay_as_they_state(toys):
    config = config_of(MeshConfig(fsdp=2, tensor=2))
    mesh = meshes.make(config.mesh)
    params = training.abstract_state(config, mesh)["params"]
    layer = params["blocks"][0]["mlp"]
    shards = {name: x.sharding.shard_shape(x.shape) for name, x in layer.items()}
    assert shards == {"enter": (2, 16, 24), "leave": (2, 24, 16), "shift": (2, 32)}
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        graph = functional.graph(config.model, config.attention)
    assert functional.decays(graph, params)["blocks"][0]["mlp"] == {"enter": True, "leave": True, "shift": False}


def test_its_flops_are_counted(toys):
    config = config_of(MeshConfig())
    flops = functools.partial(work, length=256, rows=1)
    shapes = lambda config: training.abstract_state(config, meshes.make(config.mesh))["params"]
    gated = dataclasses.replace(config, model=dataclasses.replace(config.model, feed_forward="gated"))
    fewer = flops(gated, shapes(gated)).matmuls - flops(config, shapes(config)).matmuls
    assert fewer == 6 * 256 * TINY.layers * TINY.d_model * TINY.mlp_dim  # gated layers have a third matrix


def test_its_frequencies_are_those_of_the_numbers_that_were_set(toys):
    config = RopeConfig(theta=100.0, scaling="toy(2)", factor=4.0)
    inv_freq, factor = api.frequencies(config, 8, 1)
    np.testing.assert_allclose(inv_freq, 100.0 ** (-np.arange(4) / 4) / [4, 1, 4, 1])
    assert factor == 0.5


def from_command_line(*overrides) -> Config:
    file = str(ROOT / "tests/golden/three_stages.py")
    return configs.from_command_line(["train", "--config", file, *(f"--config.model.{one}" for one in overrides)])[0]


def test_a_command_line_names_them(toys):
    config = from_command_line("rope.scaling=toy(2)", "rope.factor=4", "feed_forward=toy")
    check_settings(config)
    unread.check(config)
    assert configs.from_config_dict(dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["rope.scaling=toy"], r"model.rope.scaling='toy' must be toy\(strength: int\), all positive"),
        (["rope.scaling=toy(1, 2)"], r"model.rope.scaling='toy\(1, 2\)' must be toy\(strength: int\)"),
        (["rope.scaling=toy(9)"], "model.rope.scaling: strength=9 must be below 9"),
        (["rope.scaling=toy(2)", "rope.beta_fast=8"], "model.rope.beta_fast=8.0 has no effect: .* 'yarn' reads it"),
        (["feed_forward=tov"], "model.feed_forward='tov' is not known. Did you mean 'toy'"),
    ],
)
def test_a_command_line_that_names_them_wrongly(toys, overrides, message):
    config = from_command_line(*overrides)
    with pytest.raises(UserError, match=message):
        check_settings(config)
        unread.check(config)


def test_without_its_line_neither_is_known():
    with pytest.raises(UserError, match=r"model.rope.scaling='toy' is not known"):
        check_settings(from_command_line("rope.scaling=toy(2)"))
    with pytest.raises(UserError, match="model.feed_forward='toy' is not known"):
        check_settings(from_command_line("feed_forward=toy"))
