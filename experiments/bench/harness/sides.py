"""Sides of a benchmark, each in a process of its own, that run in turn.

Thread pools of different frameworks disturb each other, and peak memory belongs to a process. So each side is a
`Worker`: a child process that builds its work once (imports, compilation, one run), then does one timed burst per
request. Requests go to the sides in turn, round after round, so that a disturbance of the machine meets all of them.
"""

import contextlib
import ctypes
import itertools
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import time

from experiments.settings.extras import missing
from longctx.memory import sizes

ROOT = pathlib.Path(__file__).resolve().parents[3]
BURST = 0.3  # seconds: short work is repeated until a burst lasts this long
LIMIT = 1800  # seconds that a worker may take to answer
_LOG = 4000  # characters kept of a failed worker's stderr
MIB = 2**20


class WorkerFailed(RuntimeError):
    """The error for a side that cannot be measured: one line with the reason, and `log`, the end of its stderr."""

    def __init__(self, message: str, log: str = ""):
        super().__init__(message)
        self.log = log


class Worker:
    """A child process `python -m module --worker TASK`, as a context manager; `serve` is the child's end.

    Args:
      environment: variables beside this process's own; by default those with which all sides use this machine's cores
        alike, and no accelerator.
      limit: seconds that a reply may take.

    Attributes:
      ready: the child's first reply, once it is built.

    Raises:
      WorkerFailed: from the constructor and `ask`, when the child ends or does not reply in time.
    """

    def __init__(self, module: str, task: dict, environment: dict[str, str] | None = None, limit: float = LIMIT):
        default = {
            "JAX_PLATFORMS": "cpu",
            "NPROC": str(threads()),
            "OMP_NUM_THREADS": str(threads()),
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
        }
        env = {**os.environ, **(default if environment is None else environment)}
        self._errors, self.limit = tempfile.TemporaryFile("w+"), limit
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, "--worker", json.dumps(task)],
            cwd=ROOT,
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self.ready = self._reply(limit)
        except BaseException:
            self.close()
            raise

    def ask(self, request: str, limit: float | None = None) -> dict:
        """The reply to a request. limit: seconds for this request, default the worker's."""
        with contextlib.suppress(BrokenPipeError):  # a dead child is reported by the missing reply
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        return self._reply(self.limit if limit is None else limit)

    def _reply(self, limit: float) -> dict:
        stdout = self._process.stdout
        if not select.select([stdout], [], [], max(limit, 0))[0]:
            self._process.kill()
            raise WorkerFailed(f"no answer within {limit:.0f} s", self._log())
        if line := stdout.readline():
            return json.loads(line)
        code, log = self._process.wait(), self._log()
        if code < 0:
            raise WorkerFailed(f"ended by signal {-code}" + " (out of memory?)" * (code == -signal.SIGKILL), log)
        raise WorkerFailed((log.splitlines() or [f"ended with code {code}"])[-1][:200], log)

    def _log(self) -> str:
        self._errors.seek(0)
        return self._errors.read().strip()[-_LOG:]

    def close(self) -> None:
        """Kills the child."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits for a device may outlive its kill
            self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def serve(build, task: str) -> int:
    """Runs the child's end of a Worker: (ready, handlers) = build(task), then handlers[line]() for each line of stdin.

    `ready` and the handlers' results are dicts; each goes out as one line of JSON with the process's peak_mb.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with replies
    ready, handlers = build(json.loads(task))
    for reply in itertools.chain([ready], (handlers[line.strip()]() for line in sys.stdin)):
        print(json.dumps({**reply, "peak_mb": peak_mb()}), file=replies, flush=True)
    return 0


def compare(module: str, sides: dict[str, dict], requests, rounds: int) -> dict[str, dict]:
    """Measures all sides together: builds each in turn, then sends every request to every side in `rounds` rounds.

    Args:
      sides: name -> task; task["needs"] are packages without which the side is left out, with a note.
      requests: names of handlers; those in a side's ready["skipped"] are not sent to it.

    Returns:
      name -> the side's `ready` with peak_mb, seconds {request: [each run]}, and a note that says what is missing.
    """
    records = {}
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, task in sides.items():
            records[name] = {"seconds": {request: [] for request in requests}, "note": missing(*task.get("needs", ()))}
            if not records[name]["note"]:
                with _noting(records[name]):
                    workers[name] = stack.enter_context(Worker(module, task))
                    records[name] |= workers[name].ready
        for _, (name, worker), request in itertools.product(range(rounds), workers.items(), requests):
            record = records[name]
            if not record["note"] and request not in record.get("skipped", {}):
                with _noting(record):
                    reply = worker.ask(request)
                    record["seconds"][request] += reply["seconds"]
                    record["peak_mb"] = reply["peak_mb"]
    return records


@contextlib.contextmanager
def _noting(record: dict):
    """Puts the message of a WorkerFailed into the record's note."""
    try:
        yield
    except WorkerFailed as error:
        record["note"] = str(error)


def timed(run, burst: float = BURST) -> dict:
    """{"seconds": [each run]} of run(), repeated until `burst` seconds have passed."""
    seconds = []
    while sum(seconds) < burst:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}


def peak_mb() -> float:
    """The peak resident memory of this process since it started, or since reset_peak, in MiB."""
    return sizes.peak_resident() / MIB


def reset_peak() -> None:
    """Returns freed memory to the system and resets the peak to the present resident memory, on Linux."""
    if sys.platform == "linux":  # else freed heap hides what is allocated next
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # a function of glibc
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def memory_mb() -> float:
    """Physical memory of the machine in MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB


def threads() -> int:
    """The number of cores that this process may use, and of threads that every side gets."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
