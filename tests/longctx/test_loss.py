"""The loss with the TPU kernels inside, the vocabulary cut over devices: interpreted, and through the TPU compiler."""

import functools

import jax
import numpy as np
import pytest

from longctx import loss, meshes
from longctx.config import MeshConfig
from pallas_kernels.cross_entropy import api
from tests.helpers import NEEDS_TPU_COMPILER, assert_close, compiled_for_tpu, nightly, slow
from tests.pallas_kernels.cross_entropy.test_cross_entropy import inputs


def test_kernels_agree(monkeypatch):
    # jax's interpreter does not type its loops as varying over the mesh
    monkeypatch.setattr(jax, "shard_map", functools.partial(jax.shard_map, check_vma=False))
    x, head, targets, cotangent = inputs(M=24, D=16, V=100)
    p, weights = (x.reshape(2, 12, 16), head, targets.reshape(2, 12)), cotangent[0].reshape(2, 12)

    def value_and_grads(kernel):
        monkeypatch.setitem(api.PREFERENCE, "cpu", (kernel,))
        mean = lambda x, head, targets: (loss.token_loss(x, head, targets, 5.0) * weights).sum()
        mesh = meshes.make(MeshConfig(data=2, tensor=2))
        with jax.set_mesh(mesh):
            put = lambda a, spec: jax.device_put(a, jax.sharding.NamedSharding(mesh, spec))
            return jax.jit(jax.value_and_grad(mean, (0, 1)))(*map(put, p, (meshes.HIDDEN, meshes.HEAD, meshes.TOKENS)))

    assert_close(jax.tree.map(np.asarray, value_and_grads("tpu")), value_and_grads("chunked"), "float32", 100)


@NEEDS_TPU_COMPILER
@pytest.mark.parametrize("topology", [*slow("v5e:2x2"), *nightly("v6e:2x2")])
def test_the_tpu_compiler_takes_it(topology):
    assert compiled_for_tpu("tests.longctx.compile_loss_for_tpu", topology, timeout=250) == ["kernels 2"]
