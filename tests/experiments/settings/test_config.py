"""ConfigDicts for people, frozen dataclasses for the code: the way there and back, overrides, and every config file."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.run import checks
from experiments.settings import config as configs
from experiments.settings.fields import flat
from experiments.settings.tree import Settings
from longctx.checkpoints import manifest
from longctx.config import LayerConfig, ModelConfig, RopeConfig, StageConfig
from tests.helpers import ROOT

QUICKSTART = str(ROOT / "configs" / "quickstart.py")


def parsed(*args, file=QUICKSTART):
    return configs.from_command_line(["command", "--config", file, *args])[0]


def test_defaults_are_those_of_the_dataclasses_and_locked():
    tree = configs.defaults()
    assert configs.from_config_dict(tree) == Settings()
    assert list(tree) == [field.name for field in dataclasses.fields(Settings)]
    stage = tree.stages[0]
    for group in (tree, tree.model, tree.model.rope, stage, stage.rope, configs.stage(), configs.rope()):
        assert group.is_locked


ropes = st.builds(
    RopeConfig,
    theta=st.floats(2, 1e8),
    scaling=st.sampled_from(["none", "yarn"]),
    factor=st.floats(1, 64),
    original_length=st.integers(0, 9999),
    truncate=st.booleans(),
    long_factors=st.sampled_from([(), (1.0, 2.5)]),
)
stages = st.builds(StageConfig, seq_len=st.integers(1, 9999), steps=st.integers(0, 9), rope=st.none() | ropes)


@given(rope=ropes, stages=st.lists(stages, max_size=3), lengths=st.lists(st.integers(1, 9)), seed=st.integers(0, 9))
def test_there_and_back(rope, stages, lengths, seed):
    config = Settings(seed=seed, stages=tuple(stages), model=ModelConfig(rope=rope))
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, lengths=tuple(lengths)))
    same = [s if s.rope != rope else dataclasses.replace(s, rope=None) for s in stages]  # None says "the model's"
    config_back = dataclasses.replace(config, stages=tuple(same))
    assert configs.from_config_dict(configs.to_config_dict(config)) == config_back
    assert configs.from_config_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config_back


def test_a_stage_takes_the_fields_that_its_rope_leaves_open_from_the_model():
    tree = configs.defaults()
    tree.model.rope.update(theta=5e5, scaling="linear", factor=2.0)
    tree.stages = [configs.stage(seq_len=8, steps=1), configs.stage(seq_len=16, steps=1, rope=configs.rope(theta=1e6))]
    first, second = configs.from_config_dict(tree).stages
    assert first.rope is None
    assert second.rope == RopeConfig(theta=1e6, scaling="linear", factor=2.0)


def test_kinds_of_layers_there_and_back():
    """A kind takes the model's values in fields that it leaves open, but its rope is complete."""
    tree = configs.defaults()
    tree.model.update(mask="causal & window(9)", rope=dict(scaling="linear", factor=8.0))
    tree.model.pattern = [configs.layer(mask="causal", rope=configs.rope(theta=3e4)), configs.layer(position="nope")]
    config = configs.from_config_dict(tree)
    assert config.model.pattern == (
        LayerConfig(mask="causal", rope=RopeConfig(theta=3e4)),
        LayerConfig(position="nope"),
    )
    assert [(kind.position, kind.mask) for kind in config.model.kinds] == [
        ("rope", "causal"),
        ("nope", "causal & window(9)"),
    ]
    assert configs.from_config_dict(configs.to_config_dict(config)) == config
    assert configs.from_config_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    changed = parsed("--config.model.pattern[0].position=rerope(64)", "--config.model.query_scale=log_length(64)")
    assert [(kind.position, kind.query_scale) for kind in changed.model.kinds] == [
        ("rerope(64)", "log_length(64)"),
        *2 * [("rope", "log_length(64)")],
    ]


def test_integers_become_floats_where_the_field_is_one():
    tree = configs.defaults()
    tree.optim.learning_rate = 1
    value = configs.from_config_dict(tree).optim.learning_rate
    assert value == 1.0 and type(value) is float


def test_overrides():
    config = parsed(
        "--config.stages[0].seq_len=1024",
        "--config.stages[1].rope.theta=1e6",
        "--config.stages[0].lr_scale",
        "2",
        "--config.eval.lengths=(512,1024)",
        "--config.eval.tasks=('passkey',)",
        "--config.data.path=/a b",
        "--noconfig.log.tensorboard",
        "--config.model.tied_head",
        "--config.model.rope.scaling=linear",
    )
    plain = parsed()
    assert config.stages[0] == dataclasses.replace(plain.stages[0], seq_len=1024, lr_scale=2.0)
    assert config.stages[1].rope == dataclasses.replace(plain.stages[1].rope, theta=1e6)
    assert config.model.rope == RopeConfig(scaling="linear")
    assert config.eval.lengths == (512, 1024) and config.eval.tasks == ("passkey",)
    assert config.data.path == "/a b" and config.model.tied_head and config.log.trackers == ()


def test_the_last_of_two_overrides_counts():
    assert parsed("--config.seed=1", "--config.seed=2").seed == 2


@pytest.mark.parametrize("argv", [["--config", QUICKSTART], [f"--config={QUICKSTART}"]])
def test_workdir(argv):
    config, workdir = configs.from_command_line(["command", *argv])
    assert workdir == pathlib.Path("runs") / config.name == pathlib.Path("runs/quickstart")
    assert configs.from_command_line(["command", "--workdir", "x/y", *argv])[1] == pathlib.Path("x/y")


def test_arguments_have_the_types_of_their_defaults():
    assert vars(configs.arguments("", smoke=False, context=1)) == {"smoke": False, "context": 1}
    assert vars(configs.arguments("context=4, smoke", smoke=False, context=1)) == {"smoke": True, "context": 4}
    assert vars(configs.arguments("smoke=false,rate=1e-3,x=y", smoke=True, rate=0.1, x="")) == {
        "smoke": False,
        "rate": 1e-3,
        "x": "y",
    }


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_settings_of_an_existing_run(tmp_path, stage):
    """The RoPE is that of the stage that the checkpoint was made in."""
    old = parsed("--config.model.rope.theta=3e4")
    step = tmp_path / configs.CHECKPOINTS / "10"
    (step / "state").mkdir(parents=True)
    manifest.write(step, manifest.Manifest(10, {}, {}, None, {"config": dataclasses.asdict(old), "stage": stage}))
    command = ["command", "--workdir", str(tmp_path)]
    same, workdir = configs.from_workdir(command)
    assert workdir == tmp_path and same.model.rope == old.stages[stage].rope
    assert [one.rope or same.model.rope for one in same.stages] == [one.rope for one in old.stages]
    assert dataclasses.replace(same, model=old.model, stages=old.stages) == old
    new, _ = configs.from_workdir([*command, "--config.model.rope.scaling=linear", "--config.eval.documents=3"])
    assert new.model.rope == dataclasses.replace(same.model.rope, scaling="linear") and new.eval.documents == 3


def test_simulated_devices_set_nproc(monkeypatch):
    monkeypatch.delenv("NPROC")
    parsed()
    assert "NPROC" not in os.environ
    assert parsed(file=f"{QUICKSTART}:context=4").mesh.simulate == 4
    assert os.environ["NPROC"] == "32"


def test_help_is_usage_and_exit_code_0(capsys):
    with pytest.raises(SystemExit) as stopped:
        configs.from_command_line(["command", "--help"])
    assert stopped.value.code == 0 and "--config FILE" in capsys.readouterr().out


def test_help_lists_every_setting_with_its_comment(capsys):
    with pytest.raises(SystemExit):
        configs.from_command_line(["command", "--help"])
    lines = capsys.readouterr().out.splitlines()
    begin = lambda setting: next(i for i, line in enumerate(lines) if line.strip().startswith(f"{setting}="))
    fields = [text.removeprefix("--config.").partition("=")[0] for text in flat(configs.defaults())]
    for field in fields:
        if not field.startswith(("stages[", "model.pattern[")):
            begin(field)
    begin("stages[i].seq_len")
    assert lines[begin("model.kv_heads")].endswith("GQA: divides heads; 1 is MQA")
    at = begin("data.bad")  # a comment of two lines
    assert "is left out and counted" in " ".join(line.strip() for line in lines[at : at + 3])
    assert "streamed" in lines[begin("memory.chunk_tokens")]  # a comment before its field
    assert lines[begin("model.rope.theta")].strip() == "model.rope.theta=10000.0"


def test_print_config_is_a_command_line_for_the_same_settings(capsys):
    argv = ["command", "--config", f"{QUICKSTART}:smoke", "--config.model.rope.theta=123", "--config.data.bos=<s>"]
    with pytest.raises(SystemExit) as stopped:
        configs.from_command_line([*argv, "--print-config"])
    printed = capsys.readouterr().out.splitlines()
    assert stopped.value.code == 0 and "--config.model.rope.theta=123.0" in printed
    said = [line for line in printed if not line.startswith("--config.model.pattern")]  # whose entries it cannot set
    again = configs.from_command_line(["command", "--config", f"{QUICKSTART}:smoke", *said])[0]
    assert again == configs.from_command_line(argv)[0]


def test_settings_come_without_jax_and_a_check_leaves_devices_to_choose():
    code = (
        "import sys; from experiments.settings import config as c;"
        f"config, _ = c.from_command_line(['x', '--config', {QUICKSTART!r} + ':smoke,context=4']);"
        "assert 'jax' not in sys.modules and 'grain' not in sys.modules;"
        "from experiments.run import checks; checks.check(config);"
        "import jax; jax.config.update('jax_num_cpu_devices', 3);"
        "assert 'grain' not in sys.modules; print(jax.device_count())"
    )
    env = {name: value for name, value in os.environ.items() if name != "NPROC"} | {"JAX_PLATFORMS": "cpu"}
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=env, text=True, timeout=120)
    assert printed.strip() == "3"


def test_what_a_config_file_imports_comes_without_jax():
    code = (
        "import sys, experiments.settings.console; assert 'ml_collections' not in sys.modules;"
        "from experiments.settings import arguments, defaults, layer, models, rope, stage;"
        "from experiments.settings import config; assert config.defaults is defaults;"
        "assert 'jax' not in sys.modules; print(stage(seq_len=8, rope=rope(theta=3e4)).seq_len, *models.MODELS)"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=120)
    assert printed.startswith("8 llama3_1b ")


@pytest.mark.parametrize("file", sorted(ROOT.glob("configs/**/[!_]*.py")), ids=lambda file: file.stem)
def test_every_config_file_loads_and_passes_the_check(file):
    config = parsed(file=str(file))
    check = checks.check_extend if "-m experiments.extend" in file.read_text() else lambda c: checks.check(c).stages
    assert len(check(config)) == len(config.stages)
    assert file.read_text().startswith('"""') and f"--config {file.relative_to(ROOT)}" in file.read_text()


@pytest.mark.parametrize("arguments", ["smoke", "context=4", "context=4,smoke"])
def test_quickstart_variants(arguments):
    config = parsed(file=f"{QUICKSTART}:{arguments}")
    stages = checks.check(config).stages
    assert [s.seq_len for s in stages] == sorted({s.seq_len for s in stages}) and len(stages) == 3
    assert [s.rope.factor for s in stages] == [s.seq_len / stages[0].seq_len for s in stages]
    assert all(s.batch_tokens == max(config.batch_tokens, s.seq_len) for s in stages)
    assert config.mesh.context == (4 if "context" in arguments else 1)
    assert config.log.every_steps == 1 or "smoke" not in arguments
