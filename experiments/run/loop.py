"""The inner part of training: one stage of the curriculum, step by step, with logging, saving and the guard."""

import dataclasses
import time
from typing import Any

import jax

from longctx import meshes
from longctx.checkpoints import checkpointer
from longctx.config import Config
from longctx.data.curriculum import Stage
from longctx.errors import UserError

MOST_IN_FLIGHT = 16  # steps dispatched ahead of the device, each with its batch


@dataclasses.dataclass
class Loop:
    """What stays the same over the stages of a run."""

    config: Config
    mesh: jax.sharding.Mesh
    checkpoints: Any  # longctx.checkpoints.checkpointer.Checkpointer
    metrics: Any  # experiments.run.metrics.Metrics
    bar: Any  # experiments.run.progress
    stop: Any  # experiments.run.signals.StopRequest
    started: float  # time.monotonic() at the start of the command
    noted: int = 0  # how many of checkpoints.notes are printed

    def run(self, stage: Stage, train_step, stream, state, tokens_before: int):
        """Train from the step that `state` is at to the end of the stage, or to the step at which a stop was asked for.

        train_step: compiled (state, batch) -> (state, metrics). tokens_before: tokens of all earlier stages.

        Returns the state. Raises UserError after optim.max_bad_steps non-finite steps in a row.
        """
        step = int(state["step"])
        self._clock, self._clock_step = time.monotonic(), step
        self._due, self._saved_at = False, time.monotonic()
        in_flight = []  # metrics of steps that nobody has waited for
        while step < stage.end_step:
            self.stop.first = f"step {step + 1} is finished and saved"
            state, metrics = train_step(state, meshes.put_batch(next(stream), self.mesh))
            step += 1
            in_flight.append(metrics)
            stopping = self.stop.at(step)  # looked at once: a stop asked for later waits a step
            leaving, logs = stopping or step == stage.end_step, self._logs_at(step, stage)
            self._due = self._due or self._saves_at(step, logs)
            if leaving or self._due or logs or len(in_flight) == MOST_IN_FLIGHT:
                values = self._wait(in_flight, step)
                in_flight = []
                if logs:  # before the save: no gap in the log after a crash
                    self._log(stage, step, values, tokens_before)
            self.checkpoints.poll()
            if leaving or self._due and not values["skipped_in_a_row"]:
                self._save(stage, step, state, stream, skipped=values["skipped_in_a_row"])
            if stopping:
                break
        return state

    def _saves_at(self, step: int, logs: bool) -> bool:
        """Whether a save is due; of several processes process 0 says it, for each has a clock of its own."""
        config = self.config.checkpoint
        if step == 1 or step % config.every_steps == 0:
            return True
        minutes = (time.monotonic() - self._saved_at) / 60
        due = int(minutes >= config.every_minutes)
        return logs and config.every_minutes > 0 and checkpointer.from_process_0(due) > 0

    def _save(self, stage: Stage, step: int, state, stream, skipped: int) -> None:
        """A state after skipped steps is that of the last good one: it takes the place of none."""
        meta = {"config": dataclasses.asdict(self.config), "stage": stage.index}
        self.checkpoints.save(step, state, stream.get_state(), meta, in_place_of_older=not skipped)
        self._due, self._saved_at = False, time.monotonic()
        for line in self.checkpoints.notes[self.noted :]:
            self.bar.note(line)
        self.noted = len(self.checkpoints.notes)

    def _logs_at(self, step: int, stage: Stage) -> bool:
        return step % self.config.log.every_steps == 0 or step in (stage.first_step + 1, stage.end_step)

    def _wait(self, in_flight: list, step: int) -> dict:
        """The metrics of the newest step as numbers, once it is done; stops the run if too many have gone wrong."""
        values = jax.device_get(in_flight)
        limit = self.config.optim.max_bad_steps
        if max(metrics["skipped_in_a_row"] for metrics in values) >= limit:
            raise UserError(
                f"the loss, its gradient or what the update gives was not finite for optim.max_bad_steps="
                f"{limit} steps in a row, up to step {step}; no such number is in the parameters. Lower "
                f"optim.learning_rate={self.config.optim.learning_rate} or look at the data; "
                "the same command continues from the newest checkpoint."
            )
        return {name: value.item() for name, value in values[-1].items()}

    def _log(self, stage: Stage, step: int, values: dict, tokens_before: int) -> None:
        now = time.monotonic()
        speed = (step - self._clock_step) * stage.batch_tokens / max(now - self._clock, 1e-9)
        self._clock, self._clock_step = now, step
        tokens = tokens_before + (step - stage.first_step) * stage.batch_tokens
        names = ("loss", "grad_norm", "learning_rate", "skipped")
        self.metrics.step(
            {
                "step": step,
                "stage": stage.index,
                "seq_len": stage.seq_len,
                "tokens": tokens,
                **{name: values[name] for name in names},
                "tokens_per_s": round(speed, 1),
                "padding": round(1.0 - values["weight"] / stage.batch_tokens, 6),
                "time_s": round(now - self.started, 2),
            }
        )
        self.bar.update(step, tokens, values["loss"], speed)
