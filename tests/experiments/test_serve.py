"""experiments.serve: what it refuses before jax is there, and the command itself from its start to a signal."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from experiments import serve
from longctx import hf
from longctx.data import tokenizers
from tests.experiments.settings.test_bad_input import ROOT, has, problem
from tests.helpers import fast_compile

LIMIT_S = 120


@pytest.mark.parametrize(
    "argv, parts",
    [
        ([], ["give --workdir DIR", "--config.init_from=MODEL"]),
        (["--workdir", "a", "--config.init_from=b"], ["one of them"]),
        (["--workdir", "no/such"], ["--workdir='no/such'"]),
        (["--config.init_from=no/such"], ["init_from='no/such'"]),
        (["--workdir", "a", "--port", "70000"], ["--port=70000", "65535"]),
        (["--workdir", "a", "--rows", "0"], ["--rows=0 must be above 0"]),
        (["--workdir", "a", "--seconds", "nan"], ["--seconds=nan must be above 0"]),
        (["--workdir", "a", "--context", "-1"], ["--context=-1"]),
    ],
)
def test_what_it_refuses(argv, parts):
    has(problem(serve.main, ["serve", *argv]), *parts)


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(serve.extras, "missing", lambda *names: f"{names[0]} is not installed")
    has(problem(serve.main, ["serve", "--workdir", "a"]), "serving cannot be done here: starlette is not installed")


def test_a_port_that_is_taken(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        has(problem(serve.main, ["serve", f"--config.init_from={folder}", "--port", port]), f"--port={port} cannot be")


class Command:
    """experiments.serve in a process of its own, whose lines are read as they come."""

    def __init__(self, *argv: str):
        environment = os.environ | fast_compile() | {"PYTHONPATH": str(ROOT), "NPROC": "2"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.serve", "--port", "0", *argv],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines, self._coming = [], queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._coming.put(line)
        self._coming.put("")

    def until(self, beginning: str) -> str:
        """The first line with that beginning."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            line = self._coming.get(timeout=max(deadline - time.monotonic(), 0))
            assert line, f"it ended: {''.join(self.lines)}"
            self.lines.append(line)
            if line.startswith(beginning):
                return line

    def ended(self, number: int) -> int:
        """The exit code after a signal."""
        self.process.send_signal(number)
        code = self.process.wait(LIMIT_S)
        while line := self._coming.get(timeout=LIMIT_S):
            self.lines.append(line)
        return code


def asked(line: str, **ask) -> dict:
    """The answer of the server that a line tells of."""
    url = line.split(" on ")[1].split(",")[0]
    request = urllib.request.Request(
        f"{url}/completions", json.dumps(ask).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_answers_and_stops(folder, number):
    command = Command(f"--config.init_from={folder}", "--rows", "2", "--name", "mine")
    try:
        line = command.until("serving ")
        assert line.startswith("serving mine on http://127.0.0.1:") and "2 rows of 64 tokens" in line
        assert "compiling what writes a token of 2 rows ...\n" in command.lines
        prompt, tokenizer = "w1 w2 w3", tokenizers.load(str(folder))
        ids = tokenizer.encode_prompt(prompt.encode(), 10**6)
        answer = asked(line, model="mine", prompt=prompt, max_tokens=5, temperature=0)
        new = hf.load(folder).generate([ids], 5)[0][len(ids) :]
        want = tokenizer.decode([*ids, *new])[len(tokenizer.decode(ids)) :]
        assert answer["choices"][0]["text"] == want
        assert command.ended(number) == 0, "".join(command.lines)
        assert command.lines[-1] == "stopped\n"
    finally:
        command.process.kill()
