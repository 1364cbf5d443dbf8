"""Low-rank adapters through the commands: trained from a folder, continued, measured, exported both ways."""

import json

import jax
import numpy as np
import pytest

from experiments import export, extend, generate, train
from longctx import hf, meshes, trained, training
from longctx.config import MeshConfig
from longctx.errors import UserError
from longctx.model import paths
from tests.experiments.run.test_init_from import folder as folder
from tests.experiments.run.test_init_from import of_bytes
from tests.experiments.train_helpers import assert_same_run, ended_well, refusal, rewound, saved_state, saved_steps

pytestmark = pytest.mark.slow  # of one run; each part of it alone is in the main tier
LORA = ["model.lora.rank=2", "model.lora.targets=('attention.w*','mlp.up')", "model.dtype=float32"]
HOW = [*LORA, "optim.ema=0.5", "stages[0].steps=3", "stages[1].steps=3", "checkpoint.every_steps=2"]
IDS = np.arange(32).reshape(2, 16)


@pytest.fixture(scope="module")
def run(tiny, folder, tmp_path_factory):
    """(the workdir of a run of adapters from its beginning to its end, its settings)."""
    workdir = tmp_path_factory.mktemp("tuned") / "run"
    said = [f"init_from={folder}", "data.tokenizer=bytes", *HOW]
    assert "of them trained) on" in ended_well(tiny.train(workdir, *said))
    return workdir, said


def test_a_run_of_adapters_continues_bit_for_bit_and_no_other_continues_it(tiny, run, tmp_path):
    workdir, said = run
    again = rewound(workdir, tmp_path / "again", 4)
    assert saved_steps(again)[0] == 4
    ended_well(tiny.train(again, *said))
    assert_same_run(again, workdir)
    other = refusal(tiny.train(workdir, *said, "model.lora.rank=4"))
    assert "model.lora.rank: 2 (checkpoint) != 4 (now)" in other


def test_only_adapters_have_moved_and_exports_agree(run, folder, tmp_path, capsys):
    workdir, _ = run
    state, base = saved_state(workdir), dict(paths.leaves(hf.load(folder).params))
    for path, value in paths.leaves(state["params"]):
        if path in base:
            assert value.tobytes() == np.asarray(base[path]).tobytes(), path
    assert state["ema"].keys() == {"blocks"} and set(dict(paths.leaves(state["ema"]))) == {
        f"blocks.0.{name}.{which}"
        for name in ("attention.wq", "attention.wk", "attention.wv", "attention.wo", "mlp.up")
        for which in "ab"
    }

    export.main(["export", "--workdir", str(workdir), "--out", str(tmp_path / "merged")])
    export.main(["export", "--workdir", str(workdir), "--out", str(tmp_path / "adapter"), "--adapter"])
    assert "the adapters alone" in capsys.readouterr().out
    theta = {"rope_type": "default", "rope_theta": 4e4}
    model = hf.load(folder, theta, adapter=tmp_path / "adapter")
    merged, plain = hf.load(tmp_path / "merged"), hf.load(folder, theta)
    got, want = model(IDS), merged(IDS)
    assert abs(plain(IDS) - want).max() > 1e-3
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * abs(want).max())
    averages = dict(paths.leaves(trained.measured(state)))
    for path, value in paths.leaves(model.params):
        np.testing.assert_array_equal(np.asarray(value), averages[path], err_msg=path)


def test_an_adapter_is_where_tuning_goes_on(run, folder, tmp_path):
    workdir, _ = run
    out, mesh = tmp_path / "adapter", meshes.make(MeshConfig())
    export.main(["export", "--workdir", str(workdir), "--out", str(out), "--adapter"])
    config = of_bytes(folder, *LORA, f"model.lora.adapter={out}")
    state = training.init_state(config, mesh, train.start_from(config, mesh))
    found = dict(paths.leaves(hf.load(folder, adapter=out).params))
    for path, value in paths.leaves(state["params"]):
        np.testing.assert_array_equal(np.asarray(value), np.asarray(found[path]), err_msg=path)
    assert jax.tree.structure(state) == jax.tree.structure(training.abstract_state(config, mesh))
    with pytest.raises(UserError, match="has rank=2, alpha=16.0, targets=.*model.lora, with rank=4"):
        train.start_from(of_bytes(folder, *LORA, f"model.lora.adapter={out}", "model.lora.rank=4"), mesh)
    with pytest.raises(UserError, match="--adapter='x' is for a model of Hugging Face, and .* is a run"):
        generate.main(["generate", "--checkpoint", str(workdir), "--prompt", "a", "--adapter", "x"])


def test_a_model_with_an_adapter_is_compared_as_the_run_that_made_it(run, folder, tmp_path, capsys):
    """The run's RoPE, which no adapter holds, is said."""
    workdir, _ = run
    out = tmp_path / "adapter"
    export.main(["export", "--workdir", str(workdir), "--out", str(out), "--adapter"])

    def losses(name: str, *args: str) -> list[float]:
        how = ["--config.extend.methods=('none',)", "--config.extend.lengths=(32,)", "--config.extend.tasks=('loss',)"]
        text = ["--config.data.tokenizer=bytes", "--config.data.path=pydoc", "--config.data.holdout=1.0"]
        extend.main(["extend", *args, *how, *text, "--config.eval.documents=2", f"--workdir={tmp_path / name}"])
        (task,) = json.loads((tmp_path / name / "extend.json").read_text())["tasks"]
        return task["records"][0]["value"]

    model = [f"--config.init_from={folder}", "--config.model.rope.theta=4e4"]
    plain, adapted = losses("plain", *model), losses("adapted", *model, "--adapter", str(out))
    assert adapted == pytest.approx(losses("run", f"--config.init_from={workdir}"), rel=1e-4)
    assert adapted != pytest.approx(plain, rel=1e-4)
    with pytest.raises(UserError, match="extend.jsonl holds another comparison"):
        losses("adapted", *model)
    with pytest.raises(UserError, match="--adapter='x' is for a model of Hugging Face, and .* is a run"):
        losses("none", f"--config.init_from={workdir}", "--adapter", "x")
