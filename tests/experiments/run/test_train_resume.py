"""Training that is killed, stopped, or finds a damaged checkpoint goes on exactly as if nothing had happened."""

import dataclasses
import random
import re
import signal
import types

import numpy as np
import pytest

from experiments.run.loop import Loop
from experiments.settings import config as configs
from longctx import meshes
from longctx.checkpoints import manifest
from longctx.config import CheckpointConfig, Config, LogConfig, OptimConfig, StageConfig
from longctx.data.curriculum import plan
from longctx.errors import UserError
from tests.experiments.train_helpers import (
    BOUNDARY,
    STEPS,
    assert_same_losses,
    assert_same_run,
    ended_well,
    losses,
    rewound,
    saved_steps,
    steps,
)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """The workdir of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("finished")
    ended_well(tiny.train(workdir))
    return workdir


@pytest.fixture(scope="module")
def finished_slowly(tiny, tmp_path_factory):
    """The same, compiled with the default options."""
    workdir = tmp_path_factory.mktemp("finished_slowly")
    ended_well(dataclasses.replace(tiny, quick=False).train(workdir))
    return workdir


def continued_at(output: str) -> int:
    return int(re.search(rf"^continuing at step (\d+) of {STEPS}$", output, re.MULTILINE)[1])


@pytest.mark.slow
def test_killed_twice(tiny, finished, tmp_path):
    rng = random.Random(3)
    for after in (rng.randint(9, 11), rng.randint(2, 7)):  # at the 9th, step 4 is saved for sure
        code, _ = tiny.interrupted(tmp_path, signal.SIGKILL, "step ", after, rng.uniform(0, 0.1))
        assert code == -signal.SIGKILL
    assert continued_at(ended_well(tiny.train(tmp_path))) >= 4
    assert_same_run(tmp_path, finished)


@pytest.mark.nightly
def test_killed_many_times_at_any_moment(tiny, finished_slowly, tmp_path):
    rng, tiny = random.Random(0), dataclasses.replace(tiny, quick=False)
    for _ in range(4):
        line = rng.choice(["", "stage ", "step ", "step "])  # as it starts, as a stage starts, or in a stage
        count = rng.randint(1, 8) if line == "step " else 1
        code, _ = tiny.interrupted(tmp_path, signal.SIGKILL, line, count, rng.uniform(0, 0.2))
        assert code == -signal.SIGKILL
    ended_well(tiny.train(tmp_path))
    assert_same_run(tmp_path, finished_slowly)


def stopped(tiny, workdir, line, count=1, delay=0.0, first="step") -> int:
    """SIGTERM at that line: the step at which the run saved itself. first: what it says that it waits for."""
    code, output = tiny.interrupted(workdir, signal.SIGTERM, line, count, delay)
    assert code == 0, output
    assert f"asked to stop: first {first} " in output
    last = r"stopped at step (\d+), with all of it saved; the same command continues"
    step = int(re.fullmatch(last, output.splitlines()[-1])[1])
    assert saved_steps(workdir)[0] == manifest.verify(workdir / configs.CHECKPOINTS / str(step)).step == step
    assert steps(workdir)[-1]["step"] == step
    return step


@pytest.mark.slow
def test_sigterm_saves_and_the_next_start_goes_on_there(tiny, finished, tmp_path):
    step = stopped(tiny, tmp_path, "step ", 2)
    assert 2 <= step < STEPS and losses(tmp_path) == losses(finished)[:step]
    assert continued_at(ended_well(tiny.train(tmp_path))) == step
    assert_same_run(tmp_path, finished)


@pytest.mark.nightly
def test_sigterm_while_compiling(tiny, finished_slowly, tmp_path):
    tiny = dataclasses.replace(tiny, quick=False)
    assert stopped(tiny, tmp_path, "tiny: ", delay=0.5, first="the step of stage 1 is compiled,") == 1
    assert stopped(tiny, tmp_path, "continuing", delay=0.5, first="the step of stage 1 is compiled,") == 2
    ended_well(tiny.train(tmp_path))
    assert_same_run(tmp_path, finished_slowly)


@pytest.mark.slow
def test_killed_between_two_stages(tiny, finished, tmp_path):
    workdir = rewound(finished, tmp_path / "run", BOUNDARY)
    output = ended_well(tiny.train(workdir))
    assert continued_at(output) == BOUNDARY and "stage 1" not in output
    assert f"step {BOUNDARY + 1} | stage 2/2 (128)" in output
    assert_same_run(workdir, finished)  # the second stage has a RoPE and a learning rate of its own


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tiny, finished, tmp_path):
    workdir = rewound(finished, tmp_path / "run", STEPS)
    before, newest = sorted(saved_steps(workdir))[-2:]
    folder = workdir / configs.CHECKPOINTS / str(newest)
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    output = ended_well(tiny.train(workdir))
    assert f"step {newest} is damaged" in output and largest.name in output and continued_at(output) == before
    assert_same_run(workdir, finished)


@pytest.mark.slow
def test_continues_on_another_mesh(tiny, finished, tmp_path):
    workdir = rewound(finished, tmp_path / "run", BOUNDARY)
    output = ended_well(tiny.train(workdir, "mesh.context=2", "mesh.simulate=2"))
    assert "2 x cpu (context 2)" in output and continued_at(output) == BOUNDARY
    assert losses(workdir)[:BOUNDARY] == losses(finished)[:BOUNDARY]
    assert_same_losses(workdir, finished)


@pytest.mark.slow
def test_a_finished_run_has_nothing_left_to_train(tiny, finished, tmp_path):
    workdir = rewound(finished, tmp_path / "run", STEPS)
    output = ended_well(tiny.train(workdir))
    assert continued_at(output) == STEPS and "\nstep " not in output
    assert_same_run(workdir, finished)
    assert (workdir / "report.html").exists()


class AskedAtLook:
    """A StopRequest that is asked just before it is looked at for the n-th time."""

    def __init__(self, n: int):
        self._left = n

    def at(self, step: int) -> bool:
        self._left -= 1
        return self._left < 0


class Batches:
    """Endless batches of nothing."""

    def __next__(self):
        return {}

    def get_state(self):
        return {}


class Saves(list):
    """Checkpoints that only note their steps, and which of them take the place of older ones."""

    notes = ()

    def __init__(self):
        self.replacing = []

    def poll(self):
        pass

    def save(self, step, state, data, meta, in_place_of_older):
        self.append(step)
        self.replacing += [step] if in_place_of_older else []


def saves_of(config: Config, stop, bad=(), looked=lambda step: None):
    """(Saves, last step) of a run of nothing; bad: steps that are skipped."""
    ignored = types.SimpleNamespace(step=lambda record: None, update=lambda *fields: None)
    numbers = dict.fromkeys(("loss", "grad_norm", "learning_rate", "filled"), np.float32(1)) | {"skipped": np.int32(0)}

    def step(state, batch):
        now, in_a_row = state["step"] + 1, 0
        looked(now)
        while now - in_a_row in bad:
            in_a_row += 1
        return {"step": now}, numbers | {"skipped_in_a_row": np.int32(in_a_row)}

    saves = Saves()
    stages, mesh = plan(config), meshes.make(config.mesh)
    loop = Loop(config, mesh, stages, None, saves, None, ignored, ignored, stop, started=0.0)
    return saves, loop.run(stages[0], step, Batches(), {"step": 0})["step"]


@pytest.mark.parametrize("n", range(1, 5))
def test_a_stop_at_any_moment_of_a_step_saves_that_step(n):
    saves, last = saves_of(Config(stages=(StageConfig(steps=100),)), AskedAtLook(n))
    assert saves == [1, last] and 1 < last < 100


SAVED = Config(
    stages=(StageConfig(steps=12),), checkpoint=CheckpointConfig(every_steps=4), log=LogConfig(every_steps=1)
)


@pytest.mark.parametrize(
    "bad, saved, replacing",
    [
        ((), [1, 4, 8, 12], [1, 4, 8, 12]),
        ((1, 2, 4, 5, 6), [3, 7, 8, 12], [3, 7, 8, 12]),  # a save that is due waits for a good step
        ((7, 8, 9, 10), [1, 4, 11, 12], [1, 4, 11, 12]),
        ((9, 10, 11, 12), [1, 4, 8, 12], [1, 4, 8]),  # the last step is saved, and takes the place of none
    ],
)
def test_steps_that_are_skipped_cost_no_checkpoint(bad, saved, replacing):
    saves, _ = saves_of(SAVED, AskedAtLook(99), bad)
    assert (saves, saves.replacing) == (saved, replacing)


def test_too_many_steps_that_are_skipped_in_a_row_stop_the_run():
    config = dataclasses.replace(SAVED, optim=OptimConfig(max_bad_steps=3))
    assert saves_of(config, AskedAtLook(99), bad=(2, 3, 5, 6))[1] == 12
    with pytest.raises(UserError, match="optim.max_bad_steps=3"):
        saves_of(config, AskedAtLook(99), bad=(5, 6, 7))


def test_the_first_good_step_and_then_minutes_make_a_checkpoint(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr("experiments.run.loop.time", types.SimpleNamespace(monotonic=lambda: clock.now))
    tick = lambda step: setattr(clock, "now", 60.0 * 4 * step)  # four minutes a step
    config = dataclasses.replace(SAVED, checkpoint=CheckpointConfig(every_steps=100, every_minutes=10))
    assert saves_of(config, AskedAtLook(99), looked=tick)[0] == [1, 4, 7, 10, 12]
    never = dataclasses.replace(SAVED, checkpoint=CheckpointConfig(every_steps=100, every_minutes=0))
    assert saves_of(never, AskedAtLook(99), looked=tick)[0] == [1, 12]
