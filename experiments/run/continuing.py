"""What may change between the starts of one run: what lies ahead of its newest checkpoint. Free of jax.

A stage that has not begun may change in every way, be added or be left out. Of the stage that the run is in, or has
just ended, the number of steps may change; of what is behind, and of the rest of the settings, only fields that touch
neither the meaning of the state nor the order of the data (longctx/checkpoints/identity.py).
"""

import dataclasses
import pathlib
from typing import NamedTuple

from longctx.checkpoints import identity, manifest
from longctx.config import Config
from longctx.data import curriculum
from longctx.data.curriculum import Stage
from longctx.errors import UserError

NEVER = "never"


class Resume(NamedTuple):
    """The checkpoint that a run is to continue from. step: the step; None: the newest sound one. never: none."""

    step: int | None = None
    never: bool = False


NEWEST = Resume()  # where nothing is asked for


def asked(argv: list[str]) -> tuple[Resume, list[str]]:
    """(what --resume asks for, the other arguments) of a command line. Raises UserError for a value that is none."""
    words, rest, resume = iter(argv), [], NEWEST
    for word in words:
        name, given, value = word.partition("=")
        if name != "--resume":
            rest.append(word)
            continue
        value = value if given else next(words, "")
        if value != NEVER and not (value.isascii() and value.isdecimal()):
            raise UserError(
                f"--resume={value!r} must be a step of experiments.checkpoints, such as 120, or {NEVER!r}, which "
                "starts over; without it a run continues from its newest sound checkpoint."
            )
        resume = Resume(never=True) if value == NEVER else Resume(int(value))
    return resume, rest


def sealed(directory: pathlib.Path, resume: Resume) -> manifest.Manifest | None:
    """The manifest of the checkpoint that a run is to continue from, its files unread; None where there is none.

    Raises UserError for a step that is not there, or whose manifest cannot be read.
    """
    if resume.never:
        return None
    if resume.step is None:
        return identity.newest(directory)
    steps = manifest.steps(directory)
    if resume.step not in steps:
        there = f"there are {', '.join(map(str, steps))}" if steps else "there are none"
        raise UserError(f"--resume={resume.step} is no step in {directory}; {there}.")
    found, problem = manifest.examined(directory / str(resume.step), manifest.read)
    if found is None:
        raise UserError(f"--resume={resume.step} in {directory} is damaged ({problem}); continue from another step.")
    return found


def check(before: Config, now: Config, step: int) -> list[str]:
    """Lines about the stages that differ. Raises UserError for a difference that a run cannot go on with.

    before: the settings in its checkpoint. step: steps taken by then.
    """
    old, new = curriculum.plan(before), curriculum.plan(now)
    stage = curriculum.stage_at(old, max(step - 1, 0)).index  # of the last step: the next one has not begun
    begun = f"stage {stage + 1} has begun: the run is at step {step}"
    if len(new) <= stage:
        raise UserError(f"stages has {len(new)} entries, and {begun}; {stage + 1} or more work.")
    stored, settings = _fixed(before, old, stage), _fixed(now, new, stage)
    if found := identity.differing({"stages": stored.pop("stages")}, {"stages": settings.pop("stages")}):
        raise UserError(
            f"{identity.listed(found, 'checkpoint')}, and {begun}. Take this back: the steps of stage {stage + 1} "
            f"may change, and so may all of the stages behind it; a new stages[{len(old)}] may have other settings."
        )
    identity.check_same_run(stored, settings)
    taken = step - old[stage].first_step
    if new[stage].steps < taken:
        raise UserError(f"stages[{stage}] has {new[stage].steps} steps, and the run took {taken} of it; as many work.")
    _check_data(before, now, (old, new), stage)
    return _lines(now, old, new, stage)


def _fixed(config: Config, stages: tuple[Stage, ...], stage: int) -> dict:
    """The settings that may not change, as nested dicts: of stages those that have begun, with their own batch_tokens.

    stage: the index of the last of them.
    """
    plain = dataclasses.asdict(config)
    del plain["batch_tokens"]
    plain["stages"] = [
        own
        | {"batch_tokens": planned.batch_tokens, "steps": planned.steps if planned.index < stage else 0, "tokens": 0}
        for own, planned in zip(plain["stages"], stages[: stage + 1], strict=False)
    ]
    return plain


def _check_data(before: Config, now: Config, plans: tuple[tuple[Stage, ...], tuple[Stage, ...]], stage: int) -> None:
    """Raises UserError where other numbers of steps would change what the stage that has begun is fed."""
    old, new = plans
    changed = f"stages[{stage}] has {new[stage].steps} steps, was {old[stage].steps}"
    fixed = {
        f"data.mix shares out {len(now.data.mix)} sources": bool(now.data.mix),
        f"stages[{stage}].order={now.stages[stage].order!r} orders its rows": new[stage].order != "shuffled",
        f"stages[{stage}].window={now.stages[stage].window!r} grows": new[stage].window != "none",
    }
    if old[stage].steps != new[stage].steps and any(fixed.values()):
        reason = next(reason for reason, holds in fixed.items() if holds)
        raise UserError(
            f"{changed}, and {reason} over its steps, some of which are behind. Take it back; a new "
            f"stages[{len(old)}] works."
        )
    if old[stage].part != new[stage].part and any(source.cap for source in now.data.mix):
        raise UserError(
            "the tokens of all stages are not as many as in the checkpoint, and a cap of data.mix counts epochs of the "
            "whole run, part of which is behind. Take this back; or train on with --config.init_from=FOLDER, where "
            "FOLDER is what experiments.export makes of this run."
        )


def _lines(config: Config, old: tuple[Stage, ...], new: tuple[Stage, ...], stage: int) -> list[str]:
    """A line for each stage, from the one that has begun on, that is not as it was."""
    said = {}
    for i in range(stage, max(len(old), len(new))):
        if i >= len(new):
            said[i] = f"stage {i + 1} is left out"
        elif i >= len(old):
            said[i] = f"stage {i + 1} is new: {new[i].steps} steps of {new[i].batch_tokens:,} tokens"
        elif new[i].steps != old[i].steps:
            said[i] = f"stage {i + 1} now has {new[i].steps} steps, was {old[i].steps}"
        elif _own(new[i]) != _own(old[i]):
            said[i] = f"stage {i + 1}, which has not begun, has other settings now"
    total = new[-1].end_step
    if total != old[-1].end_step and config.optim.schedule != "constant":
        first = min(said)
        steps = new[first].steps if first < len(new) and new[first].lr == "restart" else total
        said[first] += f"; the learning rate goes on by optim.schedule={config.optim.schedule!r} over {steps} steps"
    return [*said.values()]


def _own(stage: Stage) -> Stage:
    """A stage without what follows from the stages beside it and from the mesh."""
    return dataclasses.replace(stage, first_step=0, part=1.0, joined=1)
