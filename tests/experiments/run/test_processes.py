"""Two processes that share a run: what they train, write and read is what one process would, and they end together."""

import fcntl
import json
import re
import signal

import numpy as np
import pytest

from experiments.run import processes
from experiments.settings import config as configs
from longctx import meshes
from longctx.checkpoints import manifest
from longctx.errors import UserError
from tests.experiments.train_helpers import (
    BOUNDARY,
    STEPS,
    assert_same_losses,
    ended_well,
    losses,
    refusal,
    rewound,
    saved_steps,
    steps,
)
from tests.helpers import nightly, tolerance

EVALS = ["eval.tasks=('by_position',)", "eval.lengths=(64,)", "eval.documents=2"]


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """The workdir of a run by one process on one device."""
    workdir = tmp_path_factory.mktemp("finished")
    ended_well(tiny.train(workdir))
    return workdir


def cut(**mesh) -> list[str]:
    """Overrides for a mesh of four devices, two in each process."""
    return [f"mesh.{axis}={size}" for axis, size in mesh.items()] + ["mesh.simulate=4"]


def assert_all_ended_well(done) -> None:
    """Both ended well, and only the first printed. (What jax's collectives say on a CPU does not count.)"""
    assert done.codes == [0, 0], done
    collectives = "[Gloo]", "connected peer ranks", "SIGTERM caught"
    lines = [line for line in done.outputs[1].splitlines() if not any(word in line for word in collectives)]
    said = [line for line in lines if not re.fullmatch(r"[\s\d.:]*", line)]  # threads may cut one another's lines
    assert not said, said


@pytest.mark.nightly
def test_a_signal_to_one_stops_both_at_one_step_and_one_process_goes_on(tiny, finished, tmp_path):
    command = tiny.command(tmp_path, *cut(fsdp=2, tensor=2))
    done = tiny.together(*command, send=signal.SIGTERM, line="step 2")
    assert_all_ended_well(done)
    step = int(re.search(r"^stopped at step (\d+), with all of it saved", done.outputs[0], re.MULTILINE)[1])
    assert 2 <= step < STEPS and [record["step"] for record in steps(tmp_path)] == list(range(1, step + 1))
    assert saved_steps(tmp_path)[0] == manifest.verify(tmp_path / configs.CHECKPOINTS / str(step)).step == step
    output = ended_well(tiny.train(tmp_path))
    assert f"continuing at step {step} of {STEPS}" in output
    assert_same_losses(tmp_path, finished)


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(tiny, finished, tmp_path):
    """The ring goes over both, so both read the same rows. Every file is there, and written once."""
    workdir = rewound(finished, tmp_path / "run", BOUNDARY)
    for name in ("config.json", "versions.json"):
        (workdir / name).unlink()
    done = tiny.together(*tiny.command(workdir, *cut(context=4)))
    assert_all_ended_well(done)
    assert f"continuing at step {BOUNDARY} of {STEPS}" in done.outputs[0]
    assert "on 4 x cpu in 2 processes (context 4)" in done.outputs[0] and done.outputs[0].count(f"step {STEPS} |") == 1
    assert losses(workdir)[:BOUNDARY] == losses(finished)[:BOUNDARY]
    assert_same_losses(workdir, finished)
    assert {path.name for path in workdir.iterdir()} == {path.name for path in finished.iterdir()}


@pytest.mark.slow
def test_an_error_of_one_process_is_its_line_and_ends_both(tiny, finished, tmp_path):
    workdir = rewound(finished, tmp_path / "run", STEPS)
    before = (workdir / "config.json").read_text()
    with open(workdir / configs.CHECKPOINTS / "LOCK") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = tiny.together(*tiny.command(workdir, *cut(data=2, context=2)))
    assert done.codes[0] == 2 and done.codes[1] != 0
    assert re.search(r"^error: The checkpoint directory .* is in use", done.outputs[0], re.MULTILINE)
    assert "error: " not in done.outputs[1]
    assert (workdir / "config.json").read_text() == before  # of the run that holds the lock, on another mesh


@pytest.mark.parametrize("mesh", nightly({"context": 2, "tensor": 2}, {"fsdp": 2, "context": 2}), ids=str)
def test_every_mesh_trains_and_evaluates_like_one_device(tiny, finished, mesh, tmp_path):
    assert_all_ended_well(tiny.together(*tiny.command(tmp_path, *EVALS, *cut(**mesh))))
    assert_same_losses(tmp_path, finished)
    trained = evals(tmp_path)
    ended_well(tiny.evaluate(tmp_path))
    loss = lambda found: found["by_position"]["lengths"][0]["loss"]
    np.testing.assert_allclose(loss(evals(tmp_path)), loss(trained), rtol=tolerance(np.float16, 1))  # five digits
    if "tensor" in mesh:  # the command for two processes: its evaluation is that at the end of training
        assert_all_ended_well(tiny.together(*tiny.evaluate_command(tmp_path)))
        assert evals(tmp_path) == trained


@pytest.mark.nightly
def test_what_is_logged_of_a_mixture_and_of_held_out_text_is_that_of_one_process(tiny, tmp_path):
    """Rows of a batch lie on both processes, and so do the sources that they are of."""
    logged = ["data.generated=('copying(0.4)',)", "eval.every_steps=5"]
    ended_well(tiny.train(tmp_path / "one", *logged))
    assert_all_ended_well(tiny.together(*tiny.command(tmp_path / "two", *logged, *cut(data=2, context=2))))
    one, two = steps(tmp_path / "one"), steps(tmp_path / "two")
    for name in ("loss", "loss/text", "loss/copying", "held_out_loss"):
        of = lambda records, name=name: {record["step"]: record[name] for record in records if name in record}
        assert of(one).keys() == of(two).keys() != set()
        np.testing.assert_allclose(list(of(two).values()), list(of(one).values()), rtol=0, atol=2e-4)


def evals(workdir) -> dict:
    return json.loads((workdir / "evals.json").read_text())


# ---- what the environment says


@pytest.mark.parametrize(
    "environment, count",
    [
        ({}, 1),
        ({"JAX_NUM_PROCESSES": "4"}, 4),
        ({"JAX_NUM_PROCESSES": "1", "SLURM_STEP_NUM_TASKS": "8"}, 1),
        ({"SLURM_STEP_NUM_TASKS": "8"}, 8),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}, 4),
    ],
    ids=str,
)
def test_count(environment, count, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.count() == count


def test_simulated_devices_are_shared_evenly():
    with pytest.raises(UserError, match="mesh.simulate=3 must divide by the 2 processes"):
        meshes.simulate(3, processes=2)


@pytest.mark.parametrize(
    "number, message",
    [
        ("2", "there are 2 processes, but .* Give each JAX_COORDINATOR_ADDRESS=HOST:PORT"),
        ("two", "JAX_NUM_PROCESSES=two in the environment must be a whole number"),
    ],
)
def test_what_cannot_be_started_leaves_no_trace(tiny, number, message, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", number)
    assert re.search(message, refusal(tiny.train(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_the_exit_code_of_a_run_that_was_stopped(monkeypatch):
    assert processes.stopped_code() == 0
    monkeypatch.setenv(processes.STOPPED, "75")
    assert processes.stopped_code() == 75
    monkeypatch.setenv(processes.STOPPED, "later")
    with pytest.raises(UserError, match="LONGCTX_STOPPED_CODE=later in the environment must be a whole number"):
        processes.stopped_code()
