"""The thread that owns the model: it admits waiting jobs to rows, reads their prompts and writes their answers.

Each turn reads a chunk of one prompt and writes one token of every answer, so that neither waits for the other. A job
begins with what some row already has of its prompt; and while another one reads what it will need too, it waits.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.serving.job import Job
from experiments.serving.protocol import Refusal
from longctx.generation.request import Sampling
from longctx.generation.rows import Draw, Rows, Scores
from longctx.ragged import common_prefix

WORTH = 16  # tokens that another row is about to read, for which a job waits


class Limits(NamedTuple):
    """What a server takes at most: bytes of a request, prompts that wait, seconds until an answer is complete."""

    body: int = 16 << 20
    waiting: int = 256
    seconds: float = 600.0


class _Row:
    """What the engine knows of a row: its job, if any, how much of the prompt is read, the key of its draws, when it
    was left last, and the Scores of its tokens from the second on, as far as they were asked for."""

    def __init__(self):
        self.job: Job | None = None
        self.read, self.key, self.left = 0, np.zeros(2, np.uint32), 0
        self.scores: list[Scores] = []

    @property
    def scored(self) -> int:
        return sum(len(part.logprobs) for part in self.scores)

    @property
    def reads(self) -> bool:
        return self.job is not None and self.read < len(self.job.wish.prompt)


class Engine:
    """Answers jobs until `stop`. Other threads call submit and stop alone; a job that is `over` is left.

    mesh: of the rows' model.
    """

    def __init__(self, rows: Rows, mesh, limits: Limits):
        self.rows, self.limits, self._mesh = rows, limits, mesh
        self._rows = [_Row() for _ in range(rows.count)]
        self._waiting: deque[Job] = deque()
        self._change, self._stopped = threading.Condition(), False
        self._count, self._turn = itertools.count(1), 0

    def submit(self, jobs: Sequence[Job]) -> None:
        """Takes jobs, all or none. Raises Refusal where too many wait, or after `stop`."""
        with self._change:
            if self._stopped:
                raise _stopping()
            if len(self._waiting) + len(jobs) > self.limits.waiting:
                raise Refusal(
                    429,
                    f"{len(self._waiting) + len(jobs)} prompts would wait, and at most {self.limits.waiting} may; ask "
                    "later, or for fewer at once.",
                    code="too_many_waiting",
                )
            self._waiting.extend(jobs)
            self._change.notify()

    def stop(self) -> None:
        """Refuses everything from now on, and what was not answered yet; `run` ends after its turn."""
        with self._change:
            self._stopped = True
            for job in (*self._waiting, *(row.job for row in self._rows if row.job)):
                job.fail(_stopping())
            self._change.notify()

    def warm(self) -> None:
        """Compiles what every answer needs. Call before `run`, in any thread."""
        with jax.set_mesh(self._mesh):
            self.rows.read(0, np.zeros(1, np.int32))
            draws = [Draw(Sampling(), self._rows[0].key, 0), *[None] * (self.rows.count - 1)]
            self.rows.write(draws, [True, *[False] * (self.rows.count - 1)])
            self.rows.begin(0, 0, 0)
        self.rows.tokens_read = 0

    def run(self) -> None:
        """Answers jobs until `stop`, or until something fails; then none is left without an answer."""
        try:
            with jax.set_mesh(self._mesh):
                while self._wait():
                    self._leave()
                    self._admit()
                    self._read()
                    self._write()
        finally:
            self.stop()

    def _wait(self) -> bool:
        """Waits until there is something to do; whether there is."""
        with self._change:
            while not (self._stopped or self._waiting or any(row.job for row in self._rows)):
                self._change.wait()
            return not self._stopped

    def _leave(self) -> None:
        """Leaves the jobs that are over, and those that took too long."""
        now = time.monotonic()
        with self._change:
            waiting = list(self._waiting)
        for job in (*waiting, *(row.job for row in self._rows if row.job)):
            if now > job.deadline:
                seconds = f"{self.limits.seconds:g} s"
                job.fail(Refusal(504, f"the answer was not complete after {seconds}; ask for less.", code="timeout"))
        for row in self._rows:
            if row.job and row.job.over:
                self._free(row)
        with self._change:
            self._waiting = deque(job for job in self._waiting if not job.over)

    def _free(self, row: _Row) -> None:
        row.job, row.left = None, next(self._count)

    def _admit(self) -> None:
        """Gives rows to the jobs that wait, in order, but for those whose prompt is just being read elsewhere."""
        with self._change:
            waiting = list(self._waiting)
        for job in waiting:
            if all(row.job for row in self._rows):
                return
            source, count = self._begun(job)
            if not self._is_read_elsewhere(job, count):
                self._begin(job, source, count)
                with self._change:
                    self._waiting.remove(job)

    def _begun(self, job: Job) -> tuple[int, int]:
        """(a row, how many tokens of the prompt it can give): the most that any has."""
        return max(((i, self._usable(i, job)) for i in range(self.rows.count)), key=lambda pair: pair[1])

    def _usable(self, i: int, job: Job) -> int:
        """How many tokens of a job's prompt the row has; one at least is left, to be read for what comes after it."""
        prompt = job.wish.prompt
        same = common_prefix(self.rows.held(i), prompt)
        count = min(same, len(prompt) - 1)
        if job.wish.scored:  # the score of a token comes from the one before it
            count = max(min(same - 1, self._rows[i].scored), 0)
        return count if self.rows.gives(i, count) else 0

    def _is_read_elsewhere(self, job: Job, count: int) -> bool:
        """Whether a row is about to read WORTH more tokens of the job's prompt than the `count` that there are."""
        return any(
            row.reads
            and row.job.wish.scored >= job.wish.scored
            and not self.rows.loses(len(row.job.wish.prompt))
            and common_prefix(job.wish.prompt, row.job.wish.prompt) >= count + WORTH
            for row in self._rows
        )

    def _begin(self, job: Job, source: int, count: int) -> None:
        """Gives a row to the job: the source, if most of what that has is used again, or the one left longest ago."""
        oldest = min((i for i, row in enumerate(self._rows) if not row.job), key=lambda i: self._rows[i].left)
        in_place = self._rows[source].job is None and 2 * count >= len(self.rows.held(source))
        at = source if count and in_place else oldest
        scores = _first(self._rows[source].scores, max(count if job.wish.scored else count - 1, 0))
        self.rows.begin(at, source if count else at, count)
        row = self._rows[at]
        row.job, row.read, row.scores, job.kept = job, count, scores, count
        row.key = np.asarray(jax.random.key_data(jax.random.key(job.wish.seed)))

    def _read(self) -> None:
        """Reads a chunk of a prompt: of all rows that read, one after the other has its turn."""
        reading = [i for i, row in enumerate(self._rows) if row.reads]
        if not reading:
            return
        i = self._turn = next((i for i in reading if i > self._turn), reading[0])
        row = self._rows[i]
        job = row.job
        count, scores = self.rows.read(i, job.wish.prompt[row.read :], job.wish.scored)
        row.read += count
        if scores is not None:
            row.scores.append(scores)
            if np.isnan(scores.logprobs).any():
                self._overflowed(i)
                return
        if not row.reads and not job.over:
            found = _first(row.scores, len(job.wish.prompt) - 1) if job.wish.scored else None
            if job.end_reading(found and tuple(map(np.concatenate, zip(*found, strict=True)))):
                self._free(row)

    def _write(self) -> None:
        """Writes a token of every answer."""
        writing = [row.job is not None and not row.reads and not row.job.over for row in self._rows]
        if not any(writing):
            return
        draws = [
            Draw(row.job.wish.sampling, row.key, row.job.step, row.job.wish.index) if writes else None
            for row, writes in zip(self._rows, writing, strict=True)
        ]
        goes_on = [
            writes and row.job.step + 1 < row.job.wish.most for row, writes in zip(self._rows, writing, strict=True)
        ]
        tokens, scores = self.rows.write(draws, goes_on)
        for i in np.flatnonzero(writing):
            row, token = self._rows[i], int(tokens[i])
            if token < 0:
                self._overflowed(i)
            elif not row.job.over and row.job.take(token, lambda i=i: _told(scores, i)):
                self._free(row)

    def _overflowed(self, i: int) -> None:
        row = self._rows[i]
        row.job.fail(Refusal(500, "the model's logits are NaN here: its weights or its dtype overflow.", code="nan"))
        row.scores = []
        self.rows.clear(i)
        self._free(row)


def _stopping() -> Refusal:
    return Refusal(503, "the server is stopping.", code="stopping")


def _first(scores: list[Scores], count: int) -> list[Scores]:
    """The first `count` of the tokens' Scores."""
    parts, found = iter(scores), []
    while count > 0 and (part := next(parts, None)) is not None:
        found.append(Scores(*(x[:count] for x in part)))
        count -= len(found[-1].logprobs)
    return found


def _told(scores: Scores, i: int) -> tuple[float, tuple]:
    """(log-probability of row i's token, (id, log-probability) of the likeliest)."""
    return float(scores.logprobs[i]), tuple(
        zip(scores.top_ids[i].tolist(), scores.top_logprobs[i].tolist(), strict=True)
    )
