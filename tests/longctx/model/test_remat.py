"""Remat by fractions of the tokens: what is kept, where, and what is computed again, counted before anything runs."""

import collections
import dataclasses
import math

import jax
import pytest

from longctx import meshes
from longctx.config import AttentionConfig, LayerConfig, MemoryConfig, MeshConfig
from longctx.errors import UserError
from longctx.memory import remat
from longctx.model import functional
from tests.helpers import nightly, slow
from tests.longctx.model.test_transformer import TINY, batch

MODEL = dataclasses.replace(TINY, pattern=(LayerConfig(), LayerConfig(feed_forward="plain")))
TOKENS = batch()["tokens"].size
# numbers that the matmuls of a layer of each kind give a token: queries, keys, values, what attention adds, and within
# the feed-forward; all of them are sums over D
WIDTHS = [32 + 16 + 16 + 32 + inner for inner in (2 * 48, 48)]


def spent(policy: str) -> tuple[int, collections.Counter]:
    """(FLOPs of the matmuls of loss and gradient, bytes kept in each memory for the backward)."""
    mesh, kept = meshes.make(MeshConfig()), collections.Counter()

    def both(params, data):
        nll, pull = jax.vjp(lambda params: functional.nll(graph, params, data), params)
        for array in jax.tree.leaves(pull):
            kept[jax.typeof(array).memory_space] += array.nbytes
        return pull(nll)

    with jax.set_mesh(mesh):
        graph = functional.graph(dataclasses.replace(MODEL, remat=policy), AttentionConfig())
        params = jax.eval_shape(lambda: functional.init(MODEL, AttentionConfig(), jax.random.key(0)))
        return matmuls(jax.make_jaxpr(both)(params, meshes.put_batch(batch(), mesh)).jaxpr), kept


def matmuls(jaxpr) -> int:
    """FLOPs of its matmuls; a loop that runs until something holds counts once."""
    return sum(_flops(eqn) for eqn in jaxpr.eqns)


def _flops(eqn) -> int:
    if eqn.primitive.name == "dot_general":
        contracted = (eqn.invars[0].aval.shape[axis] for axis in eqn.params["dimension_numbers"][0][0])
        return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(contracted)
    inner = [value for value in eqn.params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
    return eqn.params.get("length", 1) * sum(matmuls(getattr(value, "jaxpr", value)) for value in inner)


@pytest.mark.parametrize("keep, offload", [(0.25, 0.5), *slow((0.5, 0), (0, 0.5)), *nightly((1, 0), (0, 1))])
def test_shares_of_the_tokens_are_kept_moved_and_recomputed(keep, offload):
    """Beside "offload_attention": 4 bytes of each number on the device or the host, and 2 D FLOPs fewer."""
    before, kept_before = spent("offload_attention")
    after, kept = spent(f"tokens({keep}, {offload})")
    device, host = jax.memory.Space.Device, jax.memory.Space.Host
    numbers = TOKENS * sum(WIDTHS)
    assert kept[device] - kept_before[device] == keep * numbers * 4
    assert kept[host] - kept_before[host] == offload * numbers * 4
    assert before - after == (keep + offload) * numbers * 2 * MODEL.d_model


@pytest.mark.parametrize(
    "text, says",
    [
        ("tokens", "must be tokens.keep: float, offload: float., none below 0"),
        ("tokens(0.5)", "none below 0"),
        ("tokens(-0.5, 0.5)", "none below 0"),
        ("tokens(0.6, 0.5)", "at most 1 together"),
        ("layer(1)", "layer alone"),
        ("token(0, 1)", "'token' is not known.*tokens"),
    ],
)
def test_policies_that_cannot_be(text, says):
    with pytest.raises(UserError, match=says):
        remat.parse(text)


def test_the_streamed_backward_has_its_own():
    with jax.set_mesh(meshes.make(MeshConfig())):
        one, other = (
            functional.graph(dataclasses.replace(MODEL, remat=policy), AttentionConfig(), MemoryConfig("streamed", 8))
            for policy in ("tokens(0.5, 0.5)", "layer")
        )
    assert one == other
