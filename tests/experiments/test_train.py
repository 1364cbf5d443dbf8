"""The commands from end to end: what a run writes and prints, on any mesh, and what stops it."""

import json
import re

import jax
import numpy as np
import pytest

from experiments.run import metrics
from experiments.settings import config as configs
from longctx.checkpoints import manifest
from tests.experiments.train_helpers import (
    BATCH_TOKENS,
    BOUNDARY,
    ROOT,
    STEPS,
    WORDS,
    assert_same_bits,
    assert_same_losses,
    ended_well,
    losses,
    refusal,
    rewound,
    saved_state,
    saved_steps,
    steps,
)
from tests.helpers import nightly, slow

EVALS = [
    "eval.tasks=('by_position','context_gain','passkey')",
    "eval.lengths=(64,256)",
    "eval.documents=2",
    "eval.depths=2",
]
MEASURED = [*EVALS, "eval.every_steps=5"]


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A whole run, every part of it turned on: its workdir, and the finished process."""
    workdir = tmp_path_factory.mktemp("run")
    done = tiny.train(workdir, "log.trackers=('tensorboard',)", *MEASURED)
    ended_well(done)
    return workdir, done


@pytest.mark.canary
def test_writes_every_file(run):
    workdir, _ = run
    assert {path.name for path in workdir.iterdir()} == {
        "config.json",
        "versions.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "evals.json",
        "figures",
        "report.html",
    }
    assert json.loads((workdir / "config.json").read_text()) == configs.stored(workdir)
    versions = json.loads((workdir / "versions.json").read_text())
    assert {"jax", "python", "devices"} <= versions.keys() and versions["longctx"].startswith("0.")
    assert versions["command"].startswith("python -m experiments.train --config ")
    assert json.loads((workdir / "evals.json").read_text()).keys() == {"by_position", "context_gain", "passkey"}
    assert any(b"train/loss" in path.read_bytes() for path in (workdir / "tensorboard").iterdir())
    assert list((workdir / "figures").glob("*.png"))
    report = (workdir / "report.html").read_text()
    assert "data:image/png;base64," in report and 'src="http' not in report


def test_prints_little_before_the_first_step(run):
    _, done = run
    lines = done.stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("step "))
    assert lines[first].startswith("step 1 | stage 1/2 (64) | loss ") and first <= 15
    said = r"held-out loss \d\.\d{3} at 64 tokens, context gain -?\d\.\d{3} nats, passkey \d+% of digits, report: (.*)"
    assert re.fullmatch(said, lines[-1])[1] == str(run[0] / "report.html")
    assert "compiling stage 2 of 2 (length 128) ..." in lines[:first]
    assert done.stderr == ""


def test_metrics(run):
    workdir, _ = run
    records = steps(workdir)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert [record["tokens"] for record in records] == [BATCH_TOKENS * step for step in range(1, STEPS + 1)]
    lengths = [(0, 64)] * BOUNDARY + [(1, 128)] * (STEPS - BOUNDARY)
    assert [(record["stage"], record["seq_len"]) for record in records] == lengths
    assert all(record["tokens_per_s"] > 0 and 0 <= record["padding"] < 0.5 for record in records)
    loss = [record["loss"] for record in records]
    assert np.mean(loss[-4:]) < np.mean(loss[:4]) - 1


@pytest.mark.slow
def test_held_out_losses_go_on_as_they_were_after_a_restart(tiny, run, tmp_path):
    held_out = lambda workdir: {record["step"]: record.get("held_out_loss") for record in steps(workdir)}
    whole = held_out(run[0])
    assert [step for step, loss in whole.items() if loss is not None] == [5, 10, BOUNDARY, 15, STEPS]
    assert whole[STEPS] < whole[5] - 1
    assert run[1].stdout.count("compiling the held-out loss") == 2
    workdir = rewound(run[0], tmp_path / "run", BOUNDARY)
    ended_well(tiny.train(workdir, *MEASURED))
    assert held_out(workdir) == whole and losses(workdir) == losses(run[0])


def test_metrics_mark_the_start_of_each_stage(run):
    workdir, _ = run
    stages = [record for record in metrics.read(workdir) if record.get("event") == "stage"]
    assert [(s["stage"], s["seq_len"], s["batch_size"]) for s in stages] == [(0, 64, 4), (1, 128, 2)]
    assert [s["step"] for s in stages] == [0, BOUNDARY]
    assert all(stage["compile_s"] > 0 and 0 <= stage["waste"] < 0.5 for stage in stages)


@pytest.mark.nightly
def test_a_stage_has_its_own_rope(tiny, run, tmp_path):
    ended_well(tiny.train(tmp_path, "stages[1].rope.theta=10"))
    got, want = losses(tmp_path), losses(run[0])
    assert got[:BOUNDARY] == want[:BOUNDARY]
    assert all(abs(a[1] - b[1]) > 1e-5 for a, b in zip(got[BOUNDARY:], want[BOUNDARY:], strict=True))


@pytest.mark.nightly
def test_the_losses_of_a_mixture_are_logged_by_source(tiny, tmp_path):
    ended_well(tiny.train(tmp_path, "data.generated=('copying(0.4)',)", "log.every_steps=4"))
    records, names = steps(tmp_path), {"loss/text", "loss/copying"}
    assert all(names >= {name for name in record if name.startswith("loss/")} for record in records)
    both = [record for record in records if names <= record.keys()]
    assert len(both) > 3
    assert records[0]["step"] == 1, "here no mean over several steps"
    of_first = [records[0][name] for name in names if name in records[0]]
    assert min(of_first) - 1e-4 <= records[0]["loss"] <= max(of_first) + 1e-4
    assert both[-1]["loss/text"] < both[0]["loss/text"] - 1


# ---- meshes


@pytest.mark.parametrize(
    "overrides, shape",
    [
        *slow((["mesh.fsdp=2", "mesh.tensor=2"], "fsdp 2, tensor 2")),
        *nightly(
            (["mesh.context=4"], "context 4"),
            (["mesh.context=4", "attention.strategy=all_gather", "attention.layout=striped"], "context 4"),
            (["mesh.data=2", "mesh.context=2", "attention.layout=contiguous"], "data 2, context 2"),
            (["mesh.context_outer=2", "mesh.context=2", "attention.strategy=usp"], "context_outer 2, context 2"),
            (["mesh.context=4", "attention.layout=per_document"], "context 4"),
        ),
    ],
)
def test_four_devices_train_like_one(tiny, run, overrides, shape, tmp_path):
    output = ended_well(tiny.train(tmp_path, *overrides, "mesh.simulate=4"))
    assert f"on 4 x cpu ({shape})" in output
    assert_same_losses(tmp_path, run[0])


@pytest.mark.slow
def test_another_backward_continues_the_run(tiny, run, tmp_path):
    workdir = rewound(run[0], tmp_path / "run", 8)
    ended_well(
        tiny.train(
            workdir,
            "memory.backward=streamed",
            "memory.chunk_tokens=32",
            "memory.offload=('params','residual')",
            *EVALS,
        )
    )
    assert_same_losses(workdir, run[0])


# ---- evaluation


def evals(workdir):
    return json.loads((workdir / "evals.json").read_text())


@pytest.mark.slow
def test_evaluate(tiny, run, tmp_path):
    workdir = rewound(run[0], tmp_path / "run", STEPS)
    ended_well(tiny.evaluate(workdir))
    assert evals(workdir) == evals(run[0])  # the RoPE is that of the last stage
    assert (workdir / "report.html").exists()
    assert losses(workdir) == losses(run[0]) and saved_steps(workdir) == saved_steps(run[0])


@pytest.mark.nightly
def test_evaluate_with_another_rope(tiny, run, tmp_path):
    workdir = rewound(run[0], tmp_path / "run", STEPS)
    rope = ["model.rope.scaling=linear", "model.rope.factor=2"]
    ended_well(tiny.evaluate(workdir, *rope, "eval.tasks=('by_position',)"))
    assert evals(workdir)["by_position"] != evals(run[0])["by_position"]


@pytest.mark.slow
def test_evaluate_one_task_at_another_length(tiny, run, tmp_path):
    workdir = rewound(run[0], tmp_path / "run", STEPS)
    ended_well(tiny.evaluate(workdir, "eval.tasks=('by_position',)", "eval.lengths=(128,)"))
    assert evals(workdir).keys() == {"by_position"} and evals(workdir)["by_position"] != evals(run[0])["by_position"]
    assert losses(workdir) == losses(run[0]) and saved_steps(workdir) == saved_steps(run[0])


# ---- generation


@pytest.mark.slow
def test_generate_goes_on_from_a_prompt_on_any_mesh(tiny, run, tmp_path):
    (tmp_path / "prompt").write_text("the quick brown fox jumps")
    command = [
        "-m",
        "experiments.generate",
        "--checkpoint",
        str(run[0]),
        "--prompt-file",
        str(tmp_path / "prompt"),
        "--max-new-tokens",
        "20",
        "--chunk",
        "16",
    ]
    text = ended_well(tiny.python(*command))
    assert set(text[:-1]) <= set(" ".join(WORDS)) and len(text) == 21  # a byte each, and the end of the line
    assert ended_well(tiny.python(*command, "--config.mesh.context=2", "--config.mesh.simulate=2")) == text


# ---- what stops a run


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(tiny, tmp_path):
    done = tiny.train(
        tmp_path, "optim.learning_rate=1e30", "optim.clip_norm=0", "optim.max_bad_steps=3", "checkpoint.every_steps=1"
    )
    message = refusal(done)
    assert "optim.max_bad_steps=3" in message and "optim.learning_rate=1e+30" in message
    state = saved_state(tmp_path)
    assert saved_steps(tmp_path) == [1] and state["skipped"] == 0  # nothing since it is going wrong
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    "overrides, parts",
    [
        (["mesh.data=2"], ["needs 2 devices", "there are 1", "--config.mesh.simulate=2"]),
        *slow((["data.path=/no/such/folder"], ["data.path='/no/such/folder'", "does not exist"])),
    ],
)
def test_bad_input_leaves_no_trace(tiny, overrides, parts, tmp_path):
    done = tiny.train(tmp_path / "run", *overrides)
    message = refusal(done)
    assert done.stdout == "" and all(part in message for part in parts), message
    assert not (tmp_path / "run").exists()


def test_the_workdir_of_another_run(tiny, run):
    workdir, _ = run
    before = sorted(workdir.rglob("*"))
    message = refusal(tiny.train(workdir, "model.mlp_dim=32", "seed=7"))
    assert "model.mlp_dim: 64 (checkpoint) != 32 (now)" in message and "seed: 0 (checkpoint) != 7 (now)" in message
    assert sorted(workdir.rglob("*")) == before


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
sys.argv.pop(0)
runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.nightly
def test_a_full_disk_while_saving(tiny, run, tmp_path):
    workdir = rewound(run[0], tmp_path / "run", 8)
    sound = saved_state(workdir)
    done = tiny.python("-c", LIMITED, *tiny.command(workdir)[1:])
    message = refusal(done)
    assert "step 12" in message and str(workdir) in message
    assert "\nstep 9 |" in done.stdout
    newest, damaged = manifest.newest_sound(workdir / configs.CHECKPOINTS)
    assert newest.step == 8 and not damaged
    assert_same_bits(saved_state(workdir), sound)


# ---- the config files of the project

CONFIG_FILES = sorted(
    str(path.relative_to(ROOT / "configs"))
    for path in (ROOT / "configs").rglob("*.py")
    if "-m experiments.train" in path.read_text()
)
PLANNED = [name for name in CONFIG_FILES if "-m experiments.plan" in (ROOT / "configs" / name).read_text()]


EVALUATED = "quickstart.py", "recipes/sft_long.py"  # at their end; how that goes hangs on no config


@pytest.mark.parametrize(
    "name", [*slow("quickstart.py"), *nightly(*(name for name in CONFIG_FILES if name != "quickstart.py"))]
)
def test_every_config_has_a_whole_smoke_run(tiny, name, tmp_path):
    given = [f"--config={ROOT / 'configs' / name}:smoke", *([] if name in EVALUATED else ["--config.eval.tasks=()"])]
    ended_well(tiny.python("-m", "experiments.train", *given, "--workdir", str(tmp_path)))
    assert len(steps(tmp_path)) == 2 or name not in PLANNED
    assert all(np.isfinite(record["loss"]) and record["skipped"] == 0 for record in steps(tmp_path))
    assert (tmp_path / "report.html").exists()
    assert evals(tmp_path).keys() == set(configs.stored(tmp_path)["eval"]["tasks"])
