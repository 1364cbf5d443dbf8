"""Runs that start from a folder of Hugging Face: what their model is, and all of it from one folder to the next."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import train
from experiments.run import checks, records, sources
from experiments.settings import config as configs
from longctx import hf, meshes
from longctx.checkpoints import manifest
from longctx.config import AttentionConfig, Config, MeshConfig, ModelConfig, RopeConfig
from longctx.errors import UserError
from longctx.hf.folder import read
from longctx.model import functional
from tests.experiments.train_helpers import Tiny, assert_same_bits, ended_well, refusal, rewound
from tests.helpers import ROOT
from tests.longctx.hf import tiny as golden

CONFIGS = ROOT / "configs"
MODEL = ModelConfig(
    layers=1,
    d_model=32,
    mlp_dim=64,
    heads=4,
    kv_heads=2,
    head_dim=8,
    qk_norm="rms",
    dtype="float32",
    rope=RopeConfig(theta=5e4, original_length=64),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that bytes suffice for, as a folder of Hugging Face."""
    path = tmp_path_factory.mktemp("hf") / "model"
    with jax.set_mesh(meshes.make(MeshConfig())):
        params = jax.jit(lambda: functional.init(MODEL, AttentionConfig(), jax.random.key(0)))()
        hf.save({"params": params}, path, config=MODEL, longest=64)
    return path


def settings(folder, *overrides: str, file: str = "continue.py:length=64", workdir="nowhere"):
    argv = ["command", "--config", str(CONFIGS / file), "--workdir", str(workdir), f"--config.init_from={folder}"]
    return configs.from_command_line(argv + [f"--config.{override}" for override in overrides])[0]


def of_bytes(folder, *overrides: str, **how):
    return settings(folder, "data.tokenizer=bytes", *overrides, **how)


def test_the_model_is_the_folders_but_for_what_is_asked(folder):
    model = of_bytes(folder, "model.rope.scaling=yarn", "model.rope.factor=4.0", "model.position=nope").model
    assert (model.layers, model.heads, model.qk_norm, model.vocab_size) == (1, 4, "rms", 264)
    assert (model.rope.theta, model.rope.scaling, model.rope.factor, model.rope.original_length) == (5e4, "yarn", 4, 64)
    assert (model.position, model.remat, model.dtype) == ("nope", "attention", "bfloat16")  # the run's


def test_a_config_file_says_things_too(folder, tmp_path):
    """To their defaults as well, and the rope of a stage in what differs from the model's, whoever's that is."""
    (tmp_path / "file.py").write_text("""
from experiments.settings import config as configs

def get_config():
    config = configs.defaults()
    config.model.rope.theta = 10_000.0
    config.model.update(remat="none", logit_soft_cap=30.0, layers=1)
    config.data.tokenizer = "bytes"
    config.stages = (configs.stage(seq_len=64, steps=1),
                     configs.stage(seq_len=128, steps=1, rope=configs.rope(scaling="yarn", factor=2.0)),
                     configs.stage(seq_len=128, steps=1, rope=configs.rope(theta=1e6)))
    return config
""")
    config = settings(folder, "stages[1].rope.beta_fast=8", file=tmp_path / "file.py")
    assert (config.model.rope.theta, config.model.remat, config.model.logit_soft_cap) == (1e4, "none", 30)
    assert [stage.rope for stage in config.stages] == [
        None,
        RopeConfig(scaling="yarn", factor=2.0, original_length=64, beta_fast=8.0),
        RopeConfig(theta=1e6, original_length=64),
    ]
    assert settings(folder, "model.rope.theta=3e4", file=tmp_path / "file.py").model.rope.theta == 3e4


YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    "name, content, dictionary, overrides, wanted",
    [
        (
            "llama_llama3",
            dict(max_position_embeddings=512),
            YARN,
            ["scaling=yarn", "factor=4.0"],
            RopeConfig(theta=5e5, scaling="yarn", factor=4.0, original_length=64),
        ),  # of its own scaling
        (
            "llama_llama3",
            {},
            YARN | {"original_max_position_embeddings": 32},
            ["scaling=yarn", "factor=4.0", "original_length=32"],
            RopeConfig(theta=5e5, scaling="yarn", factor=4.0, original_length=32),
        ),  # said
        (
            "llama_llama3",
            dict(max_position_embeddings=512),
            {"rope_type": "yarn"},
            ["scaling=yarn"],
            RopeConfig(theta=5e5, scaling="yarn", factor=8.0, original_length=64),
        ),
        (
            "phi3",
            dict(max_position_embeddings=256),
            YARN,
            ["scaling=yarn", "factor=4.0"],  # max_position_embeddings
            RopeConfig(scaling="yarn", factor=4.0, original_length=256),
        ),
        (
            "llama_yarn",
            {},
            {"factor": 8.0},
            ["factor=8.0"],  # all else as it was
            RopeConfig(scaling="yarn", factor=8.0, original_length=64, beta_fast=4.0, mscale=0.8, mscale_all_dim=0.5),
        ),
        (
            "llama_yarn",
            {},
            YARN,
            ["scaling=yarn", "factor=4.0"],  # or all of it anew
            RopeConfig(scaling="yarn", factor=4.0, original_length=64),
        ),
        ("llama_yarn", {}, {"rope_type": "default"}, ["scaling=none"], RopeConfig(original_length=64)),
        (
            "llama_llama3",
            {},
            {"rope_theta": 10000.0},
            ["theta=10000"],
            RopeConfig(scaling="llama3", factor=8.0, original_length=64),
        ),
        ("llama_linear", {}, {"factor": 1.0}, ["factor=1"], RopeConfig(scaling="linear", original_length=64)),
    ],
)
def test_one_rule_for_another_rope(tmp_path, name, content, dictionary, overrides, wanted):
    """hf.load(rope_scaling=...) and init_from."""
    folder = golden.write(tmp_path, name, **content)
    assert read(golden.config(name) | content, dictionary).rope == wanted
    assert of_bytes(folder, *(f"model.rope.{override}" for override in overrides)).model.rope == wanted


@pytest.mark.parametrize(
    "name, overrides, parts",
    [
        (
            "llama",
            ["model.layers=3", "model.d_model=32"],
            ["model.layers=3 (it has 2) cannot be changed", "leave it out"],
        ),
        ("llama", ["model.layers=4"], ["model.layers=4 (it has 2)"]),  # our default
        (
            "llama",
            ["model.embedding_std=1.0", "model.rope.pairing=interleaved"],
            ["model.embedding_std=1.0 (it has 0.0), model.rope.pairing='interleaved' (it has 'half')"],
        ),
        ("llama", ["model.pattern[0].mask=causal"], ["model.pattern=("]),
        ("mistral", ["model.mask=causal"], ["model.mask='causal' has no effect", "'causal & window(20)'"]),
        ("llama", ["model.rope.factor=4.0"], ["model.rope: scaling 'none' reads no factor; linear, ntk"]),
        ("llama", ["model.rope.scaling=linear"], ["model.rope: scaling 'linear' needs a factor"]),
        ("llama", ["model.rope.scaling=yarm"], ["model.rope: scaling='yarm'", "yarn"]),
        ("llama", ["stages[0].rope.beta_fast=8"], ["stages[0].rope: scaling 'none' reads no beta_fast; yarn would"]),
    ],
)
def test_what_cannot_be_said_of_a_folders_model(tmp_path, name, overrides, parts):
    folder = golden.write(tmp_path, name)
    with pytest.raises(UserError) as caught:
        of_bytes(folder, *overrides)
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value), caught.value


def test_what_can(tmp_path):
    folder = golden.write(tmp_path, "gemma2")
    given = dict(
        layers=3,
        mask="causal & window(8)",
        query_scale="log_length(64)",
        attention_soft_cap=0.0,
        logit_soft_cap=3.0,
        dtype="float32",
        param_dtype="bfloat16",
        remat="layer",
    )
    model = of_bytes(folder, *(f"model.{name}={value}" for name, value in given.items())).model
    assert {name: getattr(model, name) for name in given} == given
    assert [kind.mask for kind in model.kinds] == ["causal & window(20)", "causal & window(8)"]


def test_a_config_file_of_the_same_sizes(tmp_path):
    """Sizes that are said and are the folder's change nothing."""
    sizes = dict(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=8,
        vocab_size=512,
        rope_parameters=None,
        rope_theta=5e5,
    )
    tensors = {"model.embed_tokens.weight": np.zeros((512, 64), np.float32)}
    tensors |= {f"model.layers.{i}.input_layernorm.weight": np.ones(64, np.float32) for i in range(2)}
    folder = golden.write(tmp_path, "llama", tensors, **sizes)
    config = of_bytes(folder, file="llama3_8b_128k.py:smoke")
    assert (config.model.heads, config.model.rope.theta, config.model.norm_eps) == (32, 8e6, 1e-5)
    with pytest.raises(UserError, match=r"model.qkv_bias=True \(it has False\)"):
        of_bytes(folder, file="qwen_7b_1m_a800x8.py:smoke")


def test_training_further_takes_a_small_rate_and_a_text_that_is_named(folder):
    command = ["train", f"--config.init_from={folder}", "--config.data.tokenizer=bytes"]
    with pytest.raises(UserError, match="name its file or folder by --config.data.path=TEXT"):
        configs.for_training(command)
    config, _, (note,) = configs.for_training([*command, "--config.data.path=stdlib"])
    assert config.optim.learning_rate == 2e-5 and note.startswith("optim.learning_rate=2e-05, ")
    said = ["--config.data.path=stdlib", "--config.optim.learning_rate=0.001"]
    config, _, notes = configs.for_training([*command, *said])
    assert (config.optim.learning_rate, notes) == (1e-3, [])
    file = ["train", "--config", str(CONFIGS / "continue.py"), *command[1:], "--config.data.path=a"]
    config, _, notes = configs.for_training(file)
    assert (config.optim.learning_rate, notes) == (1e-5, [])  # the file's
    config, _, notes = configs.for_training(["train", "--config", str(CONFIGS / "quickstart.py")])
    assert config.optim.learning_rate > 1e-3 and not notes


def test_a_folder_with_sentence_piece_alone_is_refused_and_not_fed_bytes(tmp_path):
    folder = golden.write(tmp_path, "llama")
    (folder / "tokenizer.model").write_bytes(b"\n\x05")
    for said in ([], ["data.tokenizer=bytes"]):
        with pytest.raises(UserError, match=r"tokenizer.model alone.*save_pretrained\(.*tokenizer.json"):
            settings(folder, *said)
    with pytest.raises(UserError, match="tokenizer.model alone"):
        sources.of_hugging_face(str(folder), [])
    assert settings(folder, "data.tokenizer=own.json").data.tokenizer == "own.json"
    (folder / "tokenizer.json").write_text("{}")
    assert settings(folder).data.tokenizer == str(folder)


def test_the_tokenizer_is_the_folders_or_one_that_is_said(folder, tmp_path):
    with pytest.raises(UserError, match="has no tokenizer.json.*data.tokenizer=FILE.*data.tokenizer=bytes"):
        settings(folder)
    (folder / "tokenizer.json").write_text("{}")
    tokenizers = [
        settings(folder, *said).data.tokenizer for said in ([], ["data.tokenizer=bytes"], ["data.tokenizer=a.json"])
    ]
    (folder / "tokenizer.json").unlink()
    assert tokenizers == [str(folder), "bytes", "a.json"]


def checkpoint_of(config, workdir, stage: int = 0) -> None:
    step = workdir / configs.CHECKPOINTS / "10"
    (step / "state").mkdir(parents=True)
    meta = {"config": dataclasses.asdict(config), "stage": stage}
    manifest.write(step, manifest.Manifest(10, {}, {}, None, meta))


@pytest.mark.parametrize("other", [False, True])
def test_a_run_outlives_the_folders_it_came_from(tmp_path, other):
    """What is in the workdir suffices to continue, evaluate and export; before the first checkpoint it does not."""
    folder = golden.write(tmp_path / "model", "qwen3")
    name = "tokenizer.json" if not other else "own.json"
    (tmp_path / "text").mkdir()
    for beside in (folder / "tokenizer.json", folder / "generation_config.json", tmp_path / "text" / name):
        beside.write_text('{"beside": "the weights"}' if beside.parent == folder else "{}")
    say = [f"data.tokenizer={tmp_path / 'text' / name}"] if other else []
    workdir = tmp_path / "run"
    config = settings(folder, *say, workdir=workdir)
    records.keep_sources(config, workdir)
    shutil.move(folder, tmp_path / "moved")
    shutil.rmtree(tmp_path / "text")
    with pytest.raises(UserError, match="init_from=.*does not exist"):
        settings(folder, *say, workdir=workdir)
    checkpoint_of(config, workdir)
    assert settings(folder, *say, workdir=workdir) == config
    again, _ = configs.from_workdir(["command", "--workdir", str(workdir)])
    kept = workdir / "tokenizer" if other else workdir / "init_from"
    assert (again.init_from, again.data.tokenizer) == (str(workdir / "init_from"), str(kept))
    assert configs.kept(workdir, "", config.data.tokenizer)[1] == str(kept)
    assert (kept / "tokenizer.json").read_text() == ("{}" if other else '{"beside": "the weights"}')
    assert read(json.loads((workdir / "init_from/config.json").read_text())) == read(golden.config("qwen3"))
    assert not list(workdir.rglob("*.safetensors"))
    assert configs.kept(workdir, "another", "bytes") == ("another", "bytes")


def test_parameters_are_those_of_the_folder_and_fresh_ones_beside_them(folder):
    config = of_bytes(folder, "model.rope.scaling=clex", "model.rope.factor=4.0")
    from longctx import training

    mesh = meshes.make(MeshConfig())
    state = training.init_state(config, mesh, train.start_from(config, mesh))
    assert_same_bits({name: x for name, x in state["params"].items() if name != "clex"}, hf.load(folder).params)
    assert jax.tree.structure(state) == jax.tree.structure(training.abstract_state(config, mesh))


@pytest.mark.parametrize(
    "overrides, parts",
    [
        (["extend.methods=()"], ["extend.methods=() leaves nothing to read"]),
        (["extend.lengths=(0,)"], ["extend.lengths=(0,) must all be at least 1"]),
        (["extend.tasks=('recall',)"], ["'recall' is for a model that a config file trains"]),
        (["extend.tasks=('passkeys',)"], ["extend.tasks[0]='passkeys'", "Did you mean 'passkey'"]),
        (["extend.methods=('yarm',)"], ["extend.methods[0]='yarm'", "yarn"]),
        (["extend.tunings=('pose',)"], ["experiments.train continues"]),
    ],
)
def test_what_extend_cannot_ask_of_it(folder, overrides, parts):
    with pytest.raises(UserError) as caught:
        checks.check_extend_given(of_bytes(folder, *overrides), 64)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_parameters_of_a_stage_with_another_rope(tmp_path, monkeypatch):
    """Where the newest step is damaged, the one before may be of another stage: its RoPE is not that of the config."""
    config = of_bytes(golden.write(tmp_path / "model", "llama"), "model.dtype=float32")
    stages = tuple(dataclasses.replace(config.stages[0], rope=RopeConfig(theta=base)) for base in (1e4, 1e4, 2e4))
    config = dataclasses.replace(config, stages=stages)
    checkpoint_of(config, tmp_path, stage=2)
    step = lambda stage: (
        lambda *_: records.checkpointer.Restored(
            9, {"params": {}}, None, {"stage": stage}, ("step 10 is damaged (cut); step 9 is used",)
        )
    )
    mesh = meshes.make(MeshConfig())
    monkeypatch.setattr(records.checkpointer, "load_latest", step(1))
    with pytest.raises(UserError, match="step 9 is used, and is of another stage"):
        records.load_params(config, tmp_path, mesh)
    monkeypatch.setattr(records.checkpointer, "load_latest", step(2))
    assert records.load_params(config, tmp_path, mesh) == (9, {})


@pytest.mark.slow
def test_trained_on_exported_and_asked(folder, tmp_path):
    """Steps of size 0 give the same weights back, bit for bit, under the new RoPE; then passkeys are asked for."""
    tiny = Tiny.write(tmp_path)
    ended_well(
        tiny.train(
            "run",
            f"init_from={folder}",
            "optim.learning_rate=0.0",
            "model.rope.scaling=linear",
            "model.rope.factor=2.0",
            "stages[0].steps=1",
            "stages[1].steps=1",
            "model.dtype=float32",
            "data.tokenizer=bytes",
        )
    )
    back, aside = hf.load(folder), shutil.move(folder, tmp_path / "aside")
    ended_well(tiny.python("-m", "experiments.export", "--workdir", "run", "--out", "exported"))
    shutil.move(aside, folder)
    exported = hf.load(tmp_path / "exported")
    assert_same_bits(exported.params, back.params)
    assert exported.config.rope.scaling == "linear" and exported.config.rope.theta == 4e4
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["max_position_embeddings"] == 128
    rewound(tmp_path / "run", tmp_path / "early", 1)  # into the first stage
    ended_well(tiny.python("-m", "experiments.export", "--workdir", "early", "--out", "of_early"))
    early = json.loads((tmp_path / "of_early" / "config.json").read_text())
    assert (early["rope_theta"], early["rope_scaling"]["factor"], early["max_position_embeddings"]) == (5e4, 2.0, 128)
    assert early["eos_token_id"] == 257 and (tmp_path / "of_early" / "tokenizer.json").exists()
    assert "holds model.safetensors already" in refusal(
        tiny.python("-m", "experiments.export", "--workdir", "run", "--out", "exported")
    )
    ended_well(
        tiny.python(
            "-m",
            "experiments.extend",
            f"--config.init_from={folder}",
            "--workdir",
            "grid",
            "--config.extend.rows=2",
            "--config.extend.depths=2",
            "--config.extend.lengths=(256, 512)",
            "--config.extend.methods=('none', 'yarn')",
            "--config.data.tokenizer=bytes",
        )
    )
    result = json.loads((tmp_path / "grid" / "extend.json").read_text())
    (task,) = result["tasks"]
    assert result["trained_length"] == 64 and task["lengths"] == [64, 256, 512] and task["name"] == "passkey"
    assert [record["name"] for record in task["records"]] == ["none", "yarn"]
    assert [[cell and cell["asked"] for cell in record["cells"]] for record in task["records"]] == 2 * [
        [None, [1, 1], [1, 1]]
    ]
    of_run = ["--config.init_from=run", "--workdir", "of_run", "--config.extend.methods=('none',)"]
    of_run += ["--config.extend.rows=2", "--config.extend.lengths=(64,)", "--config.eval.documents=2"]
    ended_well(tiny.python("-m", "experiments.extend", *of_run))
    result = json.loads((tmp_path / "of_run" / "extend.json").read_text())
    assert result["trained_length"] == 128 and [task["name"] for task in result["tasks"]] == ["passkey", "loss"]
    assert result["tasks"][1]["records"][0]["value"][0] > 0
    assert subprocess.run([sys.executable, "-m", "experiments.extend"], capture_output=True).returncode == 2


def test_extend_takes_models_that_are_made_for_more_than_a_default_batch(folder):
    longer = 2 * Config.batch_tokens
    tokenizer, _ = checks.check_extend_given(of_bytes(folder, "extend.tasks=('passkey',)"), longer)
    assert tokenizer.vocab_size <= 264
