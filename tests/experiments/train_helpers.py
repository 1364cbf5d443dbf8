"""A tiny run of experiments.train in a process of its own: started, interrupted, and what it leaves behind."""

import dataclasses
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import jax
import numpy as np

from experiments.run import metrics
from experiments.settings import config as configs
from longctx import meshes, training
from longctx.checkpoints import checkpointer, manifest
from longctx.config import MeshConfig
from tests.helpers import ROOT, fast_compile

LIMIT_S = 240
BOUNDARY, STEPS, BATCH_TOKENS = 12, 20, 256  # of the run below: steps of its first stage, and of both
CONFIG = f"""
from experiments.settings import config as configs

def get_config():
    config = configs.defaults()
    config.name, config.batch_tokens = "tiny", {BATCH_TOKENS}
    config.stages = (configs.stage(seq_len=64, steps={BOUNDARY}),
                     configs.stage(seq_len=128, steps={STEPS - BOUNDARY}, lr="rewarm", rope=configs.rope(theta=4e4)))
    config.model.update(layers=1, d_model=32, mlp_dim=64, heads=4, kv_heads=2, head_dim=8, dtype="float32")
    config.data.path = TEXT
    config.optim.update(learning_rate=1e-2, warmup_steps=2)
    config.checkpoint.update(every_steps=4, keep=100)
    config.log.update(every_steps=1, trackers=())
    config.eval.tasks = ()
    return config
"""
WORDS = "the quick brown fox jumps over a lazy dog while seven wizards quietly mix bold potions for kings".split()


class Together(NamedTuple):
    """What two processes of one run ended with: exit codes, and stdout with stderr."""

    codes: list[int]
    outputs: list[str]


def two_processes() -> list[dict[str, str]]:
    """The environment that makes two processes on this machine one run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [shared | {"JAX_PROCESS_ID": str(i)} for i in range(2)]


@dataclasses.dataclass(frozen=True)
class Tiny:
    """Runs commands with a config file of two short stages.

    If not `quick`, exactly as a person would: every process compiles for itself.
    """

    folder: pathlib.Path
    quick: bool = True

    @classmethod
    def write(cls, folder: pathlib.Path) -> "Tiny":
        rng = random.Random(0)
        (folder / "text").mkdir()
        for i in range(24):
            (folder / "text" / f"{i:02}.txt").write_text(" ".join(rng.choices(WORDS, k=rng.randint(40, 400))))
        (folder / "tiny.py").write_text(CONFIG.replace("TEXT", repr(str(folder / "text"))))
        return cls(folder)

    def command(self, workdir, *overrides: str) -> list[str]:
        return [
            "-m",
            "experiments.train",
            "--config",
            str(self.folder / "tiny.py"),
            "--workdir",
            str(workdir),
            *(f"--config.{override}" for override in overrides),
        ]

    def train(self, workdir, *overrides: str) -> subprocess.CompletedProcess:
        """`experiments.train` to its end."""
        return self.python(*self.command(workdir, *overrides))

    def evaluate(self, workdir, *overrides: str) -> subprocess.CompletedProcess:
        return self.python(*self.evaluate_command(workdir, *overrides))

    def evaluate_command(self, workdir, *overrides: str) -> list[str]:
        return [
            "-m",
            "experiments.evaluate",
            "--workdir",
            str(workdir),
            *(f"--config.{override}" for override in overrides),
        ]

    def python(self, *argv: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *argv],
            env=self._environment(),
            cwd=self.folder,
            timeout=LIMIT_S,
            capture_output=True,
            text=True,
        )

    def together(self, *argv: str, send: int = 0, line: str = "") -> Together:
        """A command as two processes, each started with these arguments of Python, to the end of both.

        send: a signal for process 1 as soon as process 0 prints a line that starts with `line`.
        """
        processes = [
            subprocess.Popen(
                [sys.executable, *argv],
                env=self._environment() | environment,
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for environment in two_processes()
        ]
        watchdog = threading.Timer(LIMIT_S, lambda: [process.kill() for process in processes])
        watchdog.start()
        lines = []
        while send and (text := processes[0].stdout.readline()):
            lines.append(text)
            if text.startswith(line):
                processes[1].send_signal(send)
                send = 0
        outputs = ["".join(lines) + processes[0].communicate()[0], processes[1].communicate()[0]]
        watchdog.cancel()
        return Together([process.returncode for process in processes], outputs)

    def interrupted(self, workdir, number: int, line: str, count: int = 1, delay: float = 0.0) -> tuple[int, str]:
        """`experiments.train`, sent the signal `delay` seconds after its count-th output line that starts with `line`.

        Returns the exit code and the output, stderr too.
        """
        with subprocess.Popen(
            [sys.executable, *self.command(workdir)],
            env=self._environment(),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            watchdog = threading.Timer(LIMIT_S, process.kill)
            watchdog.start()
            lines = []
            while count and (text := process.stdout.readline()):
                lines.append(text)
                count -= text.startswith(line)
            time.sleep(delay)
            process.send_signal(number)
            lines += process.stdout.readlines()
            code = process.wait()
            watchdog.cancel()
        assert not count, f"it ended before its time: {''.join(lines)}"
        return code, "".join(lines)

    def _environment(self) -> dict[str, str]:
        ours = lambda name: name in ("NPROC", "XLA_FLAGS") or "_proxy" in name.lower()  # jax warns about proxies
        inherited = {name: value for name, value in os.environ.items() if not ours(name)}
        return inherited | (fast_compile() if self.quick else {}) | {"PYTHONPATH": str(ROOT)}


def steps(workdir) -> list[dict]:
    """The logged steps of metrics.jsonl, as they stand there."""
    return [record for record in metrics.read(workdir) if "event" not in record]


def losses(workdir) -> list[tuple]:
    """(step, loss, grad_norm) of each logged step, with every digit: equal means bit for bit."""
    return [(record["step"], record["loss"], record["grad_norm"]) for record in steps(workdir)]


def saved_steps(workdir) -> list[int]:
    return manifest.steps(workdir / configs.CHECKPOINTS)


def saved_state(workdir):
    """The state in the newest sound checkpoint, as numpy arrays."""
    config = configs.from_config_dict(configs.stored(workdir))
    abstract = training.abstract_state(config, meshes.make(MeshConfig()))
    return jax.device_get(checkpointer.load_latest(workdir / configs.CHECKPOINTS, abstract).state)


def assert_same_run(workdir, finished) -> None:
    """Every loss, every gradient norm and every bit of the last state are the same."""
    assert losses(workdir) == losses(finished)
    assert saved_steps(workdir)[0] == saved_steps(finished)[0]
    assert_same_bits(saved_state(workdir), saved_state(finished))


def assert_same_bits(got, want) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def assert_same_losses(workdir, other) -> None:
    """The losses of all STEPS steps agree to 1e-4: what another cut of the same float32 sums may change."""
    got, want = losses(workdir), losses(other)
    assert [step for step, *_ in got] == [step for step, *_ in want] == list(range(1, STEPS + 1))
    np.testing.assert_allclose([loss for _, loss, _ in got], [loss for _, loss, _ in want], rtol=0, atol=1e-4)


def rewound(finished: pathlib.Path, workdir: pathlib.Path, step: int) -> pathlib.Path:
    """A copy of a finished run as it was just after the checkpoint of `step`, but for the lines logged since then."""
    shutil.copytree(finished, workdir, ignore=shutil.ignore_patterns("evals.json", "figures", "report.html"))
    for later in saved_steps(workdir):
        if later > step:
            shutil.rmtree(workdir / configs.CHECKPOINTS / str(later))
    return workdir


def ended_well(done: subprocess.CompletedProcess) -> str:
    """The output of a command that ended without an error."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refusal(done: subprocess.CompletedProcess) -> str:
    """The message of a command that ended with exit code 2 and one line on stderr."""
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr
