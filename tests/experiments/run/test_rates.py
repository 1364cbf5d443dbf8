"""FLOPs, MFU and memory as they are logged."""

import dataclasses
import types

import numpy as np
import pytest

from experiments.hardware import targets
from experiments.run import rates
from longctx import meshes
from longctx.config import Config, ModelConfig, StageConfig
from longctx.data.curriculum import plan
from longctx.memory import sizes

CONFIG = Config(
    batch_tokens=1024,
    stages=(StageConfig(seq_len=256, steps=1),),
    model=ModelConfig(vocab_size=64, layers=2, d_model=32, mlp_dim=48, heads=2, kv_heads=1, head_dim=16),
)


def by_hand() -> float:
    """FLOPs per token: 6 for each weight of a matmul; attention's pairs, half of them and the diagonal, three times."""
    per_layer = 32 * 16 * (2 + 2 * 1 + 2) + 3 * 32 * 48
    pairs = 256 * 257 / 2 / 256
    return 6 * (2 * per_layer + 32 * 64) + 3 * 2 * 4 * pairs * 2 * 16


def test_flops_are_those_that_the_model_needs():
    mesh = meshes.make(CONFIG.mesh)
    found = rates.of_stage(CONFIG, mesh, plan(CONFIG)[0])
    assert found.per_token == pytest.approx(by_hand(), rel=0.01) and found.peak is None
    assert found.at(1000.0) == {"flops_per_s": pytest.approx(1000 * found.per_token, rel=1e-3)}


def test_mfu_is_of_all_devices_where_their_peak_is_known(monkeypatch):
    of_mesh = lambda mesh: types.SimpleNamespace(chip=targets.CHIPS["h100"])
    monkeypatch.setattr(rates.targets, "of_mesh", of_mesh)
    config = dataclasses.replace(CONFIG, mesh=dataclasses.replace(CONFIG.mesh, data=2))
    found = rates.of_stage(config, meshes.make(config.mesh), plan(config)[0])
    assert found.peak == 2e12 * targets.CHIPS["h100"].tflops
    assert rates.Rates(4e9, 8e12).at(500.0) == {"flops_per_s": 2e12, "mfu": 0.25}


def test_memory_is_that_of_the_fullest_device_or_else_of_the_process():
    device = lambda stats: types.SimpleNamespace(memory_stats=lambda: stats)
    mesh = lambda *stats: types.SimpleNamespace(local_devices=[device(each) for each in stats])
    assert rates.peak_bytes(mesh({"peak_bytes_in_use": 7}, {"peak_bytes_in_use": 9})) == 9
    held = np.ones(1 << 22)
    assert rates.peak_bytes(mesh(None, {})) == sizes.peak_resident() > held.nbytes
