"""The loss with the TPU kernels inside, the vocabulary cut over devices: interpreted, and through the TPU compiler."""
import functools
import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from longctx import loss, meshes
from longctx.config import MeshConfig
from pallas_kernels.cross_entropy import api
from tests.helpers import assert_close
from tests.pallas_kernels.test_cross_entropy import inputs

ROOT = pathlib.Path(__file__).parents[2]


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
            return jax.jit(jax.value_and_grad(mean, (0, 1)))(
                *map(put, p, (meshes.HIDDEN, meshes.HEAD, meshes.TOKENS)))

    assert_close(jax.tree.map(np.asarray, value_and_grads("tpu")), value_and_grads("chunked"), "float32", 100)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu, the TPU compiler, is not installed")
@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2"])
def test_the_tpu_compiler_takes_it(topology):
    worker = subprocess.run([sys.executable, "-m", "tests.longctx.compile_loss_for_tpu", topology],
                            cwd=ROOT, env=os.environ, text=True, capture_output=True, timeout=250)
    assert worker.stdout.split() == ["kernels", "2"], worker.stderr[-2000:]
