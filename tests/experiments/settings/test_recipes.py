"""Recipes of published training: their numbers, their sources, and two steps of each."""

import numpy as np
import pytest

from experiments import train
from experiments.run import checks as of_runs
from experiments.settings import checks
from experiments.settings import config as configs
from longctx.data import mix
from longctx.errors import UserError
from tests.experiments.train_helpers import steps
from tests.helpers import ROOT, nightly, slow

K, M = 2**10, 2**20
# tokens of a row, rows of a step, base of RoPE and scale of the rate of each stage
STAGES = {
    "qwen2_5_1m": [
        (4 * K, 1024, 1e4, 1),
        (32 * K, 128, 1e6, 1),
        (64 * K, 64, 1e6, 1),
        (128 * K, 32, 5e6, 1),
        (256 * K, 16, 1e7, 1),
    ],
    "lwm": [
        (32 * K, 128, 1e6, 1),
        (128 * K, 32, 1e7, 2),
        (256 * K, 16, 1e7, 2),
        (512 * K, 8, 2.5e7, 2),
        (1024 * K, 4, 5e7, 2),
    ],
    "prolong": [(64 * K, 64, 8e6, 1), (512 * K, 16, 1.28e8, 0.5)],
    "llama2_long:late=0.8": [(4 * K, 1024, 1e4, 1), (32 * K, 128, 5e5, 1)],
    "llama2_long:length=16384": [(16 * K, 256, 5e5, 1)],
    "grow_length": [(128, 2 * K, 1e4, 1), (256, K, 1e4, 1), (512, 512, 1e4, 1), (1024, 256, 1e4, 1)],
    "grow_length:one_shape": [(1024, 256, 1e4, 1)],
    "sky_ladder": [(8 * K, 128, 1e4, 1)],
    "dataset_decomposition": [(8 * K, 64, 1e5, 1)],
}
SMALLER = "model.layers=1", "model.heads=2", "model.kv_heads=1", "model.d_model=32", "model.vocab_size=264"
RECIPES = sorted({name.partition(":")[0] for name in STAGES})


def parsed(name: str, *more: str):
    name, _, arguments = name.partition(":")
    given = ",".join(filter(None, (arguments, *more)))
    return configs.from_command_line(["x", "--config", f"{ROOT / 'configs/recipes' / name}.py:{given}"])[0]


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_those_that_are_published(name):
    config = parsed(name)
    stages = checks.check_settings(config)
    got = [(stage.seq_len, stage.batch_size, stage.rope.theta, stage.lr_scale) for stage in stages]
    assert got == STAGES[name]
    assert all(stage.batch_size % config.memory.grad_accumulation == 0 for stage in stages)
    assert stages[-1].batch_size == config.memory.grad_accumulation or len(stages) > 1


def test_steps_and_rates():
    tokens = lambda name, *more: sum(s.steps * s.batch_tokens for s in checks.check_settings(parsed(name, *more)))
    assert tokens("llama2_long") == tokens("llama2_long", "late=0.4") == pytest.approx(400e9, rel=1e-4)
    assert tokens("llama2_long", "budget=0.01") == pytest.approx(4e9, rel=1e-3)
    assert tokens("prolong") == pytest.approx(2 * 20.97e9, rel=1e-3)
    assert tokens("dataset_decomposition") == 8 * 3607101440, "--epochs, --train-num-samples of the README"
    assert [s.steps for s in checks.check_settings(parsed("lwm"))] == [1200, 3000, 3000, 720, 450]
    rates = {name: parsed(name).optim.learning_rate for name in RECIPES}
    assert rates["lwm"] == 4e-5 and rates["prolong"] == 1e-5 and rates["sky_ladder"] == 4e-4
    assert [parsed("llama2_long", more).optim.warmup_steps for more in ("", "budget=0.01")] == [2000, 20]
    assert parsed("sky_ladder").stages[0].window == "linear(32, 0.6528, 32)"
    assert parsed("dataset_decomposition").stages[0].order == "grow_p2(8)"


@pytest.mark.parametrize("fsdp, parts", [(1, 4), (4, 1), (2, 2)])
def test_rows_are_taken_in_as_many_parts_as_devices_need(fsdp, parts):
    config = parsed("lwm", f"fsdp={fsdp}", "context=2")
    assert (config.mesh.fsdp, config.mesh.context, config.memory.grad_accumulation) == (fsdp, 2, parts)
    checks.check_settings(config)


def shares(name: str, *more: str) -> list[dict[str, float]]:
    """The share of each source that has one, in each stage."""
    config = parsed(name, "data=/books", *more)
    stages = checks.check_settings(config)
    mix.check(config.data, stages)
    names = [one.name for one in config.data.mix]
    found = [mix.shares(config.data, stage, [10**12] * len(names)) for stage in stages]
    return [{n: pytest.approx(x) for n, x in zip(names, of, strict=True) if x} for of in found]


def test_published_mixtures():
    assert shares("qwen2_5_1m") == [{"long": 0.75, "short": 0.25}] * 5
    assert [set(one) for one in shares("lwm")] == [
        {f"books_{length}"} for length in ("32k", "128k", "256k", "512k", "1m")
    ]
    first, second = shares("prolong")
    assert first["code"] == first["books"] == 0.3 and first["fineweb"] == 0.1 and first["tulu"] == 0.03
    assert (second["code"], second["code_512k"], second["books"], second["books_512k"]) == (0.15, 0.15, 0.25, 0.05)
    assert {name: first[name] for name in first if name not in ("code", "books")} == {
        name: second[name].expected for name in second if not name.startswith(("code", "books"))
    }
    assert "books_512k" not in first


def test_sources_lie_below_the_folder():
    mixed = {one.name: one for one in parsed("prolong", "data=/texts").data.mix}
    assert mixed["code_512k"].path == "/texts/code" and mixed["code_512k"].shortest == 512 * K
    books = parsed("lwm", "data=/books").data.mix
    assert {one.path.rstrip("/") for one in books} == {"/books"}
    assert [(one.shortest, one.longest) for one in books[1:3]] == [(100_000, 200_000), (200_000, 500_000)]
    assert parsed("sky_ladder", "data=/web").data.path == "/web" and not parsed("sky_ladder", "data=/web").data.mix
    alone = parsed("prolong")
    assert not alone.data.mix and not any(stage.mix for stage in alone.stages)


@pytest.mark.parametrize(
    "name, words",
    [
        ("qwen2_5_1m:first=8192", "first=8192 must be the length of a stage: 4096, 32768"),
        ("llama2_long:late=1.0", "late=1.0 must be a share of the tokens"),
        ("lwm:model=llama_8b", "model='llama_8b' is not known. Did you mean"),
        ("sky_ladder:rate=20", "1.6320 is a share of the steps|1.632 is a share of the steps"),
        ("dataset_decomposition:order=grow_p3", "'grow_p3' is not known. Did you mean 'grow_p2'"),
    ],
)
def test_arguments_that_cannot_be(name, words):
    with pytest.raises(UserError, match=words) as error:
        config = parsed(name)
        of_runs.check(config)
    assert "\n" not in str(error.value)


# in the slow tier: of a mixture in two stages, of rows of several lengths, under a window that grows
STEPPED = "prolong", "dataset_decomposition", "sky_ladder"


@pytest.mark.parametrize("name", [*slow(*STEPPED), *nightly(*(name for name in RECIPES if name not in STEPPED))])
def test_two_steps(name, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.report.write", lambda *args: None)  # seconds of pictures, tested elsewhere
    # the devices of this process are simulated already
    changed = "eval.tasks=()", "log.trackers=()", "mesh.simulate=0", *SMALLER
    said = [f"--config.{what}" for what in changed]
    file = ROOT / "configs/recipes" / f"{name}.py"
    train.main(["train", f"--config={file}:smoke", *said, f"--workdir={tmp_path}"])
    losses = [record["loss"] for record in steps(tmp_path)]
    assert len(losses) == 2 and np.isfinite(losses).all()
