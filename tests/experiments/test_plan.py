"""The planner: closed forms against numbers known otherwise, the search, and both compilers on a small model."""

import dataclasses
import json
import math
import subprocess
import sys
import types

import jax
import pytest

from experiments import plan
from experiments.hardware import targets
from experiments.meter import memory
from experiments.planner import search
from experiments.planner.work import density, work
from experiments.settings import config as configs
from longctx import meshes, training
from longctx.config import (
    Config,
    LayerConfig,
    LoraConfig,
    MemoryConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    StageConfig,
)
from longctx.errors import UserError
from tests.helpers import NEEDS_CUDA_COMPILER, NEEDS_TPU_COMPILER, ROOT, like_a_person

SHIPPED = ["llama3_8b_128k", "llama3_8b_1m", "llama3_8b_10m_h100x8", "qwen_7b_1m_a800x8", "llama3_70b_1m_v5p"]
TINY = ModelConfig(layers=3, d_model=32, mlp_dim=48, heads=4, kv_heads=2, head_dim=8, vocab_size=64, remat="layer")
GIB = targets.GIB


def shapes_of(config: Config):
    return training.abstract_state(config, meshes.make(config.mesh))


@pytest.mark.parametrize(
    "mask, length, pairs",
    [
        ("full", 4096, 4096**2),
        ("causal", 4096, 4096 * 4097 / 2),
        ("causal & window(512)", 2**16, 512 * (2**16 - 256)),
        ("chunked(1024)", 2**15, 1024 * 2**15),
    ],
)
def test_the_share_of_pairs_that_a_mask_leaves(mask, length, pairs):
    assert density(ModelConfig(mask=mask).kinds[0], length) == pytest.approx(pairs / length**2, rel=0.02)


def test_flops_are_those_of_the_closed_forms():
    config = Config(model=TINY, mesh=MeshConfig())
    D, F, N, K, H, V, T, rows = 32, 48, 4, 2, 8, 64, 512, 2
    weights = 3 * (D * H * (2 * N + 2 * K) + 3 * D * F) + D * V
    found = work(config, shapes_of(config)["params"], T, rows)
    assert found.matmuls == 6 * weights * T * rows
    assert found.recomputed == 2 * (weights - 3 * D * F) * T * rows  # all but what `down` gives
    assert found.forward == pytest.approx(rows * 3 * 4 * N * H * T**2 / 2, rel=0.01)
    assert found.model == found.matmuls + 3 * found.forward


def test_flops_of_weights_that_are_not_trained_are_two_thirds():
    """Adapters of wq and down, in three layers: the gradient of the head and of all other weights is not asked for."""
    lora = LoraConfig(rank=2, targets=("attention.wq", "mlp.down"))
    tuned = Config(model=dataclasses.replace(TINY, lora=lora), mesh=MeshConfig())
    whole, found = (work(c, shapes_of(c)["params"], 512, 2) for c in (Config(model=TINY, mesh=MeshConfig()), tuned))
    adapters = 3 * 2 * ((32 + 4 * 8) + (48 + 32))
    assert found.matmuls == whole.matmuls * 4 / 6 + 6 * adapters * 512 * 2
    head = dataclasses.replace(tuned, optim=OptimConfig(trains=("head",)))
    beside = dataclasses.replace(lora, targets=(*lora.targets, "head"))  # by way of the whole head's gradient
    for config in head, dataclasses.replace(tuned, model=dataclasses.replace(TINY, lora=beside)):
        assert work(config, shapes_of(config)["params"], 512, 2).matmuls == found.matmuls + 2 * 32 * 64 * 512 * 2


@pytest.mark.parametrize(
    "remat, memory_config, times",
    [
        ("layer", MemoryConfig(), 2.0),
        ("attention", MemoryConfig(), 1.0),
        ("tokens(0.5, 0.5)", MemoryConfig(), 1.0),
        ("layer", MemoryConfig("streamed", 64), 2.0),
        ("layer", MemoryConfig("streamed", 64, keep_attention=True), 1.0),
        ("layer", MemoryConfig("streamed", 64, 4), 2.75),
        ("layer", MemoryConfig("streamed", 64, 4, True), 2.0),
    ],
)
def test_how_often_attention_runs_forward(remat, memory_config, times):
    config = Config(model=dataclasses.replace(TINY, remat=remat), memory=memory_config)
    assert work(config, shapes_of(config)["params"], 256, 1).times == times


def test_a_mixture_counts_the_experts_that_a_token_meets():
    of = lambda **fields: dataclasses.replace(
        TINY, pattern=(LayerConfig(feed_forward="gpt_oss"),), experts=8, expert_mlp_dim=16, **fields
    )
    flops = lambda model: work(Config(model=model), shapes_of(Config(model=model))["params"], 256, 1).matmuls
    assert flops(of(experts_per_token=4)) - flops(of(experts_per_token=2)) == 6 * 256 * 3 * 2 * 3 * 32 * 16


def test_bytes_that_are_known():
    config = Config(
        model=dataclasses.replace(TINY, remat="offload_attention"),
        mesh=MeshConfig(context=4),
        memory=MemoryConfig(offload=("moments",)),
    )
    state = shapes_of(config)
    found = memory.closed_form(config, state, 512, 1)
    size = lambda kind, on_host: sum(one.bytes for one in found if (one.kind, one.on_host) == (kind, on_host))
    local = lambda tree: sum(4 * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(tree))
    assert size("parameters", False) == size("gradients", False) == local(state["params"])
    assert size("optimiser", False) + size("optimiser", True) == local(state["moments"])
    assert size("optimiser", True) > size("optimiser", False)
    assert size("layers' inputs", True) == size("attention's results", True) == 3 * 128 * 32 * 2
    used = types.SimpleNamespace(
        argument_size_in_bytes=10**6,
        temp_size_in_bytes=10**6,
        host_argument_size_in_bytes=10**6,
        host_temp_size_in_bytes=0,
    )
    assert memory.total(memory.with_rest(found, used), False) == 2 * 10**6


def test_the_longest_row_is_found_in_few_compiles(monkeypatch):
    """The search works with bytes that grow linearly on the device, and with a compiler that refuses above 37 units."""
    tried = []

    def fake(config, target):
        units = config.stages[0].seq_len // 1024
        tried.append(units)
        return types.SimpleNamespace(
            fits=units <= 37,
            memory=units <= 37,
            limit=lambda on_host: 40.0,
            used=lambda on_host: 0.0 if on_host else 3.0 + units,
            stage=config.stages[0],
        )

    monkeypatch.setattr(search, "plan_of", fake)
    config = Config(stages=(StageConfig(seq_len=4096, steps=1),), memory=MemoryConfig("streamed", 1024))
    assert search.longest(config, None, lambda one: None).stage.seq_len == 37 * 1024
    assert len(tried) <= 4


def test_what_cannot_be_planned(capsys):
    with pytest.raises(UserError, match="'h800x8' is not known.*h100x8"):
        targets.target("h800x8")
    with pytest.raises(UserError, match="mesh .* is of 1 devices, and target h100x2 has 2; --config.mesh.context=2"):
        search.plan_of(Config(), types.SimpleNamespace(name="h100x2", devices=[None, None]))
    with pytest.raises(SystemExit):
        plan.main(["plan", "--config=configs/quickstart.py"])
    assert "--target" in capsys.readouterr().err
    with pytest.raises(UserError, match="--compare='speed' is not known. Known: levers, meshes, strategies"):
        search.variants(Config(), "speed")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_config_can_be_sharded(name):
    from experiments.settings import checks

    config, _ = configs.from_command_line(["plan", "--config", str(ROOT / f"configs/{name}.py")])
    assert checks.check_settings(config)[0].seq_len >= 2**17


@pytest.mark.slow
@NEEDS_TPU_COMPILER
def test_a_step_for_a_tpu_slice(tmp_path):
    found = planned(
        "v5e:2x2",
        tmp_path,
        "configs/quickstart.py:smoke",
        "mesh.context=4",
        "model.remat=offload_layer",
        "memory.mlp_tiles=2",
    )
    assert found["seq_len"] == 1024 and found["fits"]
    assert {"attention_forward", "attention_backward"} < found["kernels"].keys()
    model = configs.from_command_line(["plan", "--config", str(ROOT / "configs/quickstart.py:smoke")])[0].model
    head = 8 * found["batch_size"] * 1024 * model.d_model * model.vocab_size  # in kernels of their own
    assert found["flops"]["compiled_matmuls"] == pytest.approx(
        found["flops"]["weight_matmuls"] + found["flops"]["recomputed"] - head, rel=0.02
    )


@pytest.mark.nightly
@NEEDS_CUDA_COMPILER
def test_what_is_as_long_as_a_row_is_on_the_hosts(tmp_path):
    """4M tokens on 8 GPUs, so long that what the model itself takes is small."""
    length = 2**22
    found = planned(
        "h100x8",
        tmp_path,
        "configs/longest.py:case=h100x8,smoke",
        f"batch_tokens={length}",
        f"stages[0].seq_len={length}",
        "memory.chunk_tokens=65536",
        "attention.layout=striped(8192)",
        "memory.offload=('residual','dy','moments','kv')",
    )
    stream_and_dy = 5 * length / 8 * 64 * 2  # inputs of layers 0 and 2, one between, the result, and dy
    of = lambda on_host: {one["kind"]: one["bytes"] for one in found["memory"] if one["on_host"] == on_host}
    assert sum(of(True)[kind] for kind in ("layers' inputs", "gradient of the stream")) == stream_and_dy
    assert found["device"]["bytes"] < 0.5 * stream_and_dy
    assert found["flops"]["compiled_matmuls"] == pytest.approx(
        found["flops"]["weight_matmuls"] + found["flops"]["recomputed"], rel=0.02
    )


@pytest.mark.nightly
@NEEDS_CUDA_COMPILER
def test_keys_travel_beside_attention_on_gpus(tmp_path):
    found = planned("h100x8", tmp_path, "configs/llama3_8b_128k.py", "mesh.context=8", "model.layers=4")
    (permutes,) = [link for link in found["links"] if link["kind"] == "collective-permute"]
    assert permutes["overlapped"] > 0.9


def planned(target: str, folder, config: str, *settings: str) -> dict:
    run(
        "plan",
        "--target",
        target,
        "--config",
        config,
        f"--workdir={folder}",
        *(f"--config.{setting}" for setting in settings),
    )
    assert (folder / "plan.png").stat().st_size > 10_000
    return json.loads((folder / "plan.json").read_text())


def run(command: str, *arguments: str):
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{command}", *arguments],
        cwd=ROOT,
        env=like_a_person(),
        text=True,
        capture_output=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done
