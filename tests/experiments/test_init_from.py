"""Runs that start from a folder of Hugging Face: what their model is, and all of it from one folder to the next."""
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import checks, train
from experiments import config as configs
from longctx import hf, meshes
from longctx.config import AttentionConfig, MeshConfig, ModelConfig, RopeConfig
from longctx.errors import UserError
from longctx.model import functional
from tests.experiments.train_helpers import Tiny, assert_same_bits, ended_well, refusal

QUICKSTART = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py")
MODEL = ModelConfig(layers=2, embed=32, mlp=64, heads=4, key_heads=2, head_size=8, qk_norm="rms", dtype="float32",
                    rope=RopeConfig(base=5e4, original_length=64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that bytes suffice for, as a folder of Hugging Face."""
    path = tmp_path_factory.mktemp("hf") / "model"
    with jax.set_mesh(meshes.make(MeshConfig())):
        params = jax.jit(lambda: functional.init(MODEL, AttentionConfig(), jax.random.key(0)))()
        hf.save({"params": params}, path, config=MODEL, longest=64)
    return path


def settings(folder, *overrides: str):
    argv = ["command", "--config", QUICKSTART, f"--config.init_from={folder}"]
    return configs.from_command_line(argv + [f"--config.{override}" for override in overrides])[0]


def test_the_model_is_the_folders_but_for_what_is_asked(folder):
    config = settings(folder, "model.rope.scaling=yarn", "model.rope.factor=4.0", "model.position=nope",
                      "stages[1].rope.base=1e6")
    model = config.model
    assert (model.layers, model.heads, model.qk_norm, model.vocab_size) == (2, 4, "rms", 264)
    assert (model.rope.base, model.rope.scaling, model.rope.factor, model.rope.original_length) == (5e4, "yarn", 4, 64)
    assert (model.position, model.remat, model.dtype) == ("nope", "none", "float32")       # the config file's
    assert (config.stages[1].rope.base, config.stages[1].rope.factor) == (1e6, 4)
    assert config.data.tokenizer == "bytes"


def test_a_tokenizer_that_lies_beside_the_weights_is_used(folder):
    (folder / "tokenizer.json").write_text("{}")
    assert settings(folder).data.tokenizer == str(folder)
    (folder / "tokenizer.json").unlink()


def test_parameters_are_those_of_the_folder_and_fresh_ones_beside_them(folder):
    config = settings(folder, "model.rope.scaling=clex", "model.rope.factor=4.0")
    from longctx import train_step
    mesh = meshes.make(MeshConfig())
    state = train_step.init_state(config, mesh, train.start_from(config, mesh))
    assert_same_bits({name: x for name, x in state["params"].items() if name != "clex"}, hf.load(folder).params)
    assert jax.tree.structure(state) == jax.tree.structure(train_step.abstract_state(config, mesh))


@pytest.mark.parametrize("overrides, parts", [
    (["extend.lengths=(32,)"], ["extend.lengths=(32,): 32 is below", "64 or more"]),
    (["extend.methods=('yarm',)"], ["extend.methods[0]='yarm'", "yarn"]),
    (["extend.tunings=('pose',)"], ["experiments.train continues"])])
def test_what_extend_cannot_ask_of_it(folder, overrides, parts):
    with pytest.raises(UserError) as caught:
        checks.check_extend_checkpoint(settings(folder, *overrides))
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.slow
def test_trained_on_exported_and_asked(folder, tmp_path):
    """Steps of size 0 give the same weights back, bit for bit, under the new RoPE; then passkeys are asked for."""
    tiny = Tiny.write(tmp_path, tmp_path / "cache")
    ended_well(tiny.train("run", f"init_from={folder}", "optim.learning_rate=0.0", "model.rope.scaling=linear",
                          "model.rope.factor=2.0", "stages[0].steps=1", "stages[1].steps=1", "model.dtype=float32"))
    ended_well(tiny.python("-m", "experiments.export", "--workdir", "run", "--out", "exported"))
    back, exported = hf.load(folder), hf.load(tmp_path / "exported")
    assert_same_bits(exported.params, back.params)
    assert exported.config.rope.scaling == "linear" and exported.config.rope.base == 4e4
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["max_position_embeddings"] == 128
    assert "holds model.safetensors already" in refusal(
        tiny.python("-m", "experiments.export", "--workdir", "run", "--out", "exported"))
    ended_well(tiny.python(
        "-m", "experiments.extend", f"--config.init_from={folder}", "--workdir", "grid", "--config.extend.rows=2",
        "--config.extend.depths=2", "--config.extend.lengths=(256, 512)", "--config.extend.methods=('none', 'yarn')"))
    result = json.loads((tmp_path / "grid" / "extend.json").read_text())
    assert result["trained_length"] == 64 and [record["name"] for record in result["records"]] == ["none", "yarn"]
    assert np.shape([record["cells"] for record in result["records"]]) == (2, 2, 2)
    assert subprocess.run([sys.executable, "-m", "experiments.extend"], capture_output=True).returncode == 2
