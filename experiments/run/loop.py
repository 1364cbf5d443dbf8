"""Training, step by step: the one loop over the batches of a stage, and around it logging, saving and the guard."""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.run import batches, rates
from experiments.run.held_out import HeldOut
from experiments.run.metrics import Metrics, Unrecorded
from experiments.run.progress import Plain
from experiments.run.signals import StopRequest
from longctx import meshes, optim, training
from longctx.checkpoints import checkpointer
from longctx.config import Config
from longctx.data.curriculum import Stage
from longctx.data.mixture import TextRows
from longctx.data.pipeline import BatchStream
from longctx.errors import UserError

IN_FLIGHT = 16  # steps dispatched ahead of the device, each with its batch


class Taken(NamedTuple):
    """A step that was dispatched: the number of steps taken by now, and the state after it. metrics: those of this step
    and of all earlier ones that nobody had waited for, as numpy scalars; empty where nobody waited."""

    step: int
    state: dict
    metrics: list[dict]


def take(step, stream: Iterator, state: dict, mesh, numbers: range, waits: Callable[[int], bool]) -> Iterator[Taken]:
    """Takes a step for each of `numbers`, the steps taken before it, and yields it as soon as it is dispatched.

    step: compiled (state, batch) -> (state, metrics); it takes the memory of the state that it is given.
    waits: steps taken -> whether to wait for the metrics; every IN_FLIGHT steps they are waited for in any case.
    """
    in_flight = []
    for number in numbers:
        state, metrics = step(state, meshes.put_batch(next(stream), mesh))
        in_flight.append(metrics)
        values = []
        if waits(number + 1) or len(in_flight) == IN_FLIGHT:
            values, in_flight = jax.device_get(in_flight), []
        yield Taken(number + 1, state, values)


@dataclasses.dataclass
class Loop:
    """Training through the stages of a run.

    Attributes:
      streams: stage -> (its stream, the rows that it is made of).
      restored: the checkpoint that the run continues from, if there is one.
      started: time.monotonic() at the start of the command. noted: how many of checkpoints.notes are printed.
      held_out: the loss that is logged every eval.every_steps, if it is asked for.
    """

    config: Config
    mesh: jax.sharding.Mesh
    stages: tuple[Stage, ...]
    streams: Callable[[Stage], tuple[BatchStream, TextRows]]
    checkpoints: checkpointer.Checkpointer
    restored: checkpointer.Restored | None
    metrics: Metrics | Unrecorded
    bar: Plain
    stop: StopRequest
    started: float
    noted: int = 0
    held_out: HeldOut | None = None

    def __post_init__(self):
        self._sources, self._rates = batches.told_apart(self.config), None
        self._steps = {}  # stage.program -> its compiled step
        self._compile_s = collections.Counter()  # by the stage for which a program was compiled

    def continue_from(self) -> None:
        """Says where a restored run goes on. Raises UserError where its text is not what it was trained on.

        Only the end of a stage needs to be looked at: there the next stream has no state to compare its text with.
        """
        if not (restored := self.restored):
            return
        self.bar.note(f"continuing at step {restored.step} of {self.stages[-1].end_step}")
        saved_in = self.stages[restored.data["stage"]]
        if restored.step == saved_in.end_step < self.stages[-1].end_step:
            stream, _ = self.streams(saved_in)
            stream.set_state(restored.data)
            stream.close()

    def compile(self, stages: Sequence[Stage]) -> None:
        """Compiles the steps of the stages before the first of them begins, so that what does not compile or fit stops
        the run now and not days later. Programs that several stages share are compiled once. A stop that is asked for
        leaves the rest out."""
        rate = optim.learning_rate(self.config.optim, self.stages)
        for stage in stages:
            if self.stop.asked or stage.program in self._steps:
                continue
            self.stop.first = f"the step of stage {stage.index + 1} is compiled"
            self.bar.note(f"compiling stage {stage.index + 1} of {len(self.stages)} (length {stage.seq_len:,}) ...")
            start = time.monotonic()
            self._steps[stage.program] = training.compile_step(self.config, rate, stage, self.mesh, len(self._sources))
            self._compile_s[stage.index] = round(time.monotonic() - start, 2)

    def train(self, stage: Stage, state: dict) -> dict:
        """Train a compiled stage from the step that `state` is at to its end, or to the step at which a stop was asked
        for.

        Returns the state. Raises UserError after optim.max_bad_steps non-finite steps in a row.
        """
        stream, rows = self.streams(stage)
        if self.restored and self.restored.step > stage.first_step:
            stream.set_state(self.restored.data)
        self._begin(stage, rows)
        self._rates = rates.of_stage(self.config, self.mesh, stage)
        state = self.run(stage, self._steps[stage.program], stream, state)
        stream.close()
        if all(stage.program != later.program for later in self.stages[stage.index + 1 :]):
            del self._steps[stage.program]  # a program takes memory of the device
        return state

    def _begin(self, stage: Stage, rows: TextRows) -> None:
        """Records and says that a stage begins."""
        compile_s = self._compile_s[stage.index]
        record = {"stage": stage.index, "seq_len": stage.seq_len, "batch_size": stage.batch_size}
        self.metrics.stage(record | {"step": stage.first_step, "compile_s": compile_s, "waste": rows.waste})
        self.bar.note(
            f"stage {stage.index + 1} of {len(self.stages)}: length {stage.seq_len:,}, {stage.batch_size} rows a step, "
            f"compiled in {compile_s:.1f} s, packing waste {rows.waste:.2%}"
            + (f", {rows.left_out:,} tokens left out (data.packing, data.too_long)" if rows.left_out else "")
        )
        self.bar.stage(stage.index, len(self.stages), stage.seq_len)

    def run(self, stage: Stage, step, stream: Iterator, state: dict) -> dict:
        """Takes, logs and saves the steps of a stage that is compiled; returns and raises as `train`."""
        first = int(state["step"])
        self._clock, self._clock_step = time.monotonic(), first
        self._by_source = np.zeros((2, len(self._sources)))
        self._due, self._saved_at = False, time.monotonic()
        numbers, waits = range(first, stage.end_step), functools.partial(self._waits, stage)
        self.stop.first = f"step {first + 1} is finished and saved"
        for taken in take(step, stream, state, self.mesh, numbers, waits):
            state = taken.state
            if taken.metrics:
                values = self._checked(taken.metrics, taken.step)
                if self._logs:  # before the save: no gap in the log after a crash
                    self._log(stage, taken.step, values, state)
            self.checkpoints.poll()
            if self._leaving or self._due and not values["skipped_in_a_row"]:
                self._save(stage, taken.step, state, stream, skipped=values["skipped_in_a_row"])
            if self._stopping:
                break
            self.stop.first = f"step {taken.step + 1} is finished and saved"
        return state

    def _waits(self, stage: Stage, step: int) -> bool:
        """Whether a step is waited for: one that is the last, is logged or after which a save is due."""
        self._stopping = self.stop.at(step)  # looked at once: a stop asked for later waits a step
        self._leaving, self._logs = self._stopping or step == stage.end_step, self._logs_at(step, stage)
        self._due = self._due or self._saves_at(step, self._logs)
        return self._leaving or self._due or self._logs

    def _saves_at(self, step: int, logs: bool) -> bool:
        """Whether a save is due. Of several processes process 0 decides, for each has a clock of its own."""
        config = self.config.checkpoint
        if step == 1 or step % config.every_steps == 0:
            return True
        minutes = (time.monotonic() - self._saved_at) / 60
        due = int(minutes >= config.every_minutes)
        return logs and config.every_minutes > 0 and checkpointer.from_process_0(due) > 0

    def _save(self, stage: Stage, step: int, state, stream, skipped: int) -> None:
        """Saves a state. After skipped steps it is the state of the last good step, and takes the place of none."""
        meta = {"config": dataclasses.asdict(self.config), "stage": stage.index}
        self.checkpoints.save(step, state, stream.get_state(), meta, in_place_of_older=not skipped)
        self._due, self._saved_at = False, time.monotonic()
        for line in self.checkpoints.notes[self.noted :]:
            self.bar.note(line)
        self.noted = len(self.checkpoints.notes)

    def _logs_at(self, step: int, stage: Stage) -> bool:
        in_turn = step % self.config.log.every_steps == 0 or self._measures_at(step, stage)
        return in_turn or step in (stage.first_step + 1, stage.end_step)

    def _measures_at(self, step: int, stage: Stage) -> bool:
        every = self.config.eval.every_steps
        return self.held_out is not None and (step % every == 0 or step == stage.end_step)

    def _checked(self, metrics: list[dict], step: int) -> dict:
        """The metrics of the newest step as numbers. Raises UserError where too many steps in a row have gone wrong."""
        limit = self.config.optim.max_bad_steps
        if max(values["skipped_in_a_row"] for values in metrics) >= limit:
            raise UserError(
                f"the loss, its gradient or what the update gives was not finite for optim.max_bad_steps="
                f"{limit} steps in a row, up to step {step}; no such number is in the parameters. Lower "
                f"optim.learning_rate={self.config.optim.learning_rate} or look at the data; "
                "the same command continues from the newest checkpoint."
            )
        if self._sources:
            self._by_source += sum(values["by_source"] for values in metrics if not values["skipped_in_a_row"])
        return {name: value.item() for name, value in metrics[-1].items() if name != "by_source"}

    def _log(self, stage: Stage, step: int, values: dict, state: dict) -> None:
        now = time.monotonic()
        tokens_before = sum(one.steps * one.batch_tokens for one in self.stages[: stage.index])
        speed = (step - self._clock_step) * stage.batch_tokens / max(now - self._clock, 1e-9)
        tokens = tokens_before + (step - stage.first_step) * stage.batch_tokens
        names = ("loss", "grad_norm", "learning_rate", "skipped")
        record = {
            "step": step,
            "stage": stage.index,
            "seq_len": stage.seq_len,
            "tokens": tokens,
            **{name: values[name] for name in names},
            "tokens_per_s": round(speed, 1),
            **(self._rates.at(speed) if self._rates else {}),
            "peak_bytes": rates.peak_bytes(self.mesh),
            "padding": round(1.0 - values["filled"] / stage.batch_tokens, 6),
            "time_s": round(now - self.started, 2),
            **self._losses_by_source(),
        }
        if self.held_out and self._measures_at(step, stage):
            record["held_out_loss"] = self.held_out(stage, state["params"])
        self.metrics.step(record)
        self.bar.update(step, tokens, values["loss"], speed, record.get("held_out_loss"))
        self._clock, self._clock_step = time.monotonic(), step  # what is measured in between is no training

    def _losses_by_source(self) -> dict[str, float]:
        """loss/NAME of each source of a mixture that had a token since the last logged step: the mean since then."""
        sums, self._by_source = self._by_source, np.zeros_like(self._by_source)
        return {
            f"loss/{name}": loss / weight for name, loss, weight in zip(self._sources, *sums, strict=True) if weight
        }
