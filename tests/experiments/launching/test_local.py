"""`launch local 2` and `launch process` really start jax.distributed, on this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.experiments.train_helpers import LIMIT_S, STEPS, losses, steps
from tests.helpers import ROOT, fast_compile

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tiny):
    """Starts a launch from the folder of the tiny run, with a limit; its Popen."""
    started = []

    def start(*argv: str, **variables: str) -> subprocess.Popen:
        drop = "NPROC", "XLA_FLAGS"
        inherited = {name: value for name, value in os.environ.items() if name not in drop}
        environment = inherited | fast_compile() | {"PYTHONPATH": str(ROOT)} | variables
        command = [sys.executable, "-m", "experiments.launch", *argv]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        started.append(subprocess.Popen(command, cwd=tiny.folder, env=environment, **pipes))
        return started[-1]

    def kill():
        for one in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)  # with the processes that it has started

    watchdog = threading.Timer(LIMIT_S, kill)
    watchdog.start()
    yield start
    watchdog.cancel()
    kill()
    for one in started:
        one.wait()
        one.stdout.close()


def test_two_processes_are_one_run_that_stops_and_goes_on(run, tiny, tmp_path):
    settings = tiny.command(tmp_path / "run", "mesh.context=4", "mesh.simulate=4")[2:]
    first = run("local", "2", "--", *settings, LONGCTX_STOPPED_CODE="75")
    lines = []
    for line in first.stdout:
        lines.append(line)
        if line.startswith("step 2 "):
            first.send_signal(signal.SIGTERM)  # is passed on to both
    assert first.wait() == 75, "".join(lines)
    assert any(line.startswith("stopped at step") for line in lines)
    assert sum("for the other 1 of 2 processes (variables), at most 300 s" in line for line in lines) == 1
    second = run("local", "2", "--", *settings)
    said = second.communicate()[0]
    assert second.returncode == 0 and "in 2 processes (context 4)" in said, said
    assert [record["step"] for record in steps(tmp_path / "run")] == list(range(1, STEPS + 1))
    assert len(losses(tmp_path / "run")) == STEPS


def test_a_process_that_is_missing_is_named_by_the_one_that_is_there(run, tiny, tmp_path):
    settings = tiny.command(tmp_path / "run", "mesh.context=4", "mesh.simulate=4")[2:]
    own = ["--coordinator", "localhost:47613", "--processes", "2"]
    alone = run("process", *own, "--index", "0", "--", *settings, LONGCTX_JOIN_LIMIT="3")
    said = alone.communicate()[0]
    assert alone.returncode == 2 and "error: process 1 of 2 did not come. Process 0 of 2 waited at most 3 s" in said
