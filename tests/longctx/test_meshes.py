"""What training sends of weights and of their gradients, read in the compiled program."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from experiments.hlo.program import read, total
from longctx import meshes
from longctx.config import AttentionConfig, MeshConfig
from longctx.memory import host
from longctx.model import functional
from tests.helpers import assert_close
from tests.longctx.model.test_transformer import TINY, batch
from tests.longctx.model.test_weights import SPECS

MODEL = dataclasses.replace(TINY, remat="layer")
SHARES = 4


@pytest.fixture(scope="module")
def gradient():
    """(mesh, the gradient of the loss as it is traced for TPUs and GPUs, compiled)"""
    mesh = meshes.make(MeshConfig(data=2, fsdp=2, context=2))
    with jax.set_mesh(mesh), pytest.MonkeyPatch.context() as patched:
        patched.setattr(meshes, "traced_platform", lambda: "gpu")
        return mesh, lowered_gradient(mesh).compile()


def lowered_gradient(mesh):
    graph = functional.graph(MODEL, AttentionConfig())
    mean_loss = lambda params, batch: functional.nll(graph, params, batch).mean()
    return jax.jit(jax.grad(mean_loss)).lower(parameters(mesh), meshes.put_batch(batch(), mesh))


@pytest.fixture(scope="module")
def collectives(gradient):
    mesh, compiled = gradient
    return read(compiled.as_text(), mesh).collectives


def parameters(mesh):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.eval_shape(lambda: functional.init(MODEL, AttentionConfig(), jax.random.key(0)))


@pytest.fixture(scope="module")
def sizes():
    """(elements of the layers' weights that have shares, those of table and head, the smallest of one layer's)"""
    leaves = jax.tree_util.tree_leaves_with_path(parameters(meshes.make(MeshConfig())))
    cut = [(path[0].key == "blocks", math.prod(x.shape)) for path, x in leaves if "fsdp" in SPECS[path[-1].key]]
    of_layers, ends = ([size for inside, size in cut if inside == kind] for kind in (True, False))
    return sum(of_layers), sum(ends), min(of_layers) // MODEL.layers


def sent(collectives, kind, axes):
    """Elements that leave each device along one or some of these axes."""
    return total((c for c in collectives if c.kind == kind and c.axes and {*c.axes} <= {*axes}), "elements")


def test_weights_are_gathered_once_for_each_pass_of_their_layer(collectives, sizes):
    of_layers, ends, _ = sizes
    assert sent(collectives, "all-gather", ("fsdp", "context")) == (2 * of_layers + ends) * (SHARES - 1) / SHARES


def test_gradients_are_scattered_where_they_are_reduced(collectives, sizes):
    """And only then, in their shares, summed along `data`; nothing of the size of a weight is all-reduced whole."""
    of_layers, ends, smallest = sizes
    assert sent(collectives, "reduce-scatter", ("fsdp", "context")) == (of_layers + ends) * (SHARES - 1) / SHARES
    assert sent(collectives, "all-reduce", ("data",)) == 2 * (2 - 1) / 2 * (of_layers + ends) / SHARES
    other = [c for c in collectives if c.kind == "all-reduce" and c.axes not in ((), ("data",))]
    assert all(shape.elements < smallest for c in other for shape in c.operands)


def test_explicit_gathers_give_the_gradients_of_one_device(gradient):
    mesh, compiled = gradient
    want = gradients(meshes.make(MeshConfig()), lambda mesh: lowered_gradient(mesh).compile())
    got = gradients(mesh, lambda mesh: compiled)
    assert_close(got, want, "float32", terms=MODEL.d_model * MODEL.mlp_dim)


def gradients(mesh, of_mesh):
    """As numpy arrays, of parameters that do not depend on the mesh."""
    with jax.set_mesh(mesh):
        params = jax.jit(lambda: functional.init(MODEL, AttentionConfig(), jax.random.key(0)))()
        return jax.tree.map(np.asarray, of_mesh(mesh)(params, meshes.put_batch(batch(), mesh)))


def test_parts_go_to_the_hosts_and_come_from_them_in_shares():
    mesh = meshes.make(MeshConfig(fsdp=8))
    with jax.set_mesh(mesh):
        array = jax.sharding.reshard(np.arange(3 * 16 * 4, dtype=np.float32).reshape(3, 16, 4), P(None, "fsdp"))
        compiled = jax.jit(lambda x: host.stacks(x, True).add(1, x[2]).array).lower(array).compile()
        got, want = np.asarray(compiled(array)), np.asarray(array)[1] + np.asarray(array)[2]
    np.testing.assert_array_equal(got[1], want)
    assert not read(compiled.as_text(), mesh).collectives
