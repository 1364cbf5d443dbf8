"""Launchers by name, and what becomes of their plans."""

import argparse
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

from experiments.launching.docker import Docker
from experiments.launching.gke import Gke
from experiments.launching.launcher import Launcher, Plan
from experiments.launching.local import Local
from experiments.launching.process import Process
from experiments.launching.skypilot import Skypilot
from experiments.launching.slurm import Slurm
from experiments.launching.tpu import Tpu
from experiments.launching.xpk import Xpk
from longctx.errors import UserError, unknown_name

LAUNCHERS: dict[str, type[Launcher]] = {
    "local": Local,
    "process": Process,
    "tpu": Tpu,
    "gke": Gke,
    "xpk": Xpk,
    "slurm": Slurm,
    "skypilot": Skypilot,
    "docker": Docker,
}
_GRACE_S = 30.0  # for the others, once one has failed: they save what they have, or end by themselves


def launcher(name: str) -> Launcher:
    """The launcher of a name. Raises UserError for an unknown one."""
    if name not in LAUNCHERS:
        raise unknown_name("launcher", name, LAUNCHERS)
    return LAUNCHERS[name]()


def check(options: argparse.Namespace) -> None:
    """Raises UserError for options that no launcher can work with."""
    name = getattr(options, "name", None)
    if name is not None and not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise UserError(
            f"--name={name} must be small letters, digits and dashes, at most 40, from a letter to a letter or digit."
        )
    for option in ("slices", "nodes", "restarts", "processes"):
        least = 0 if option == "restarts" else 1
        if (value := getattr(options, option, least)) < least:
            raise UserError(f"--{option}={value} must be at least {least}.")


def shown(plan: Plan, folder: str) -> str:
    """The files and commands of a plan, as a dry run prints them."""
    parts = [f"# ---- {pathlib.Path(folder, name)}\n{text.rstrip()}\n" for name, text in plan.files.items()]
    commands = [shlex.join(command) for command in plan.commands]
    for variables, command in plan.together:
        commands.append(shlex.join(["env", *(f"{name}={value}" for name, value in variables.items()), *command]))
    lines = [f"$ {line}" for line in commands]
    return "\n".join([*parts, *lines])


def run(plan: Plan, folder: str) -> int:
    """Writes a plan's files and runs its commands; the exit code of the first that fails, or 0.

    Raises UserError where a program that it needs is not installed.
    """
    programs = {command[0] for command in plan.commands} - {"bash"}
    if absent := sorted(name for name in programs if not shutil.which(name)):
        raise UserError(f"{', '.join(absent)} is not installed here; --dry-run prints what it would be told.")
    for name, text in plan.files.items():
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for command in plan.commands:
        print("$", shlex.join(command), flush=True)
        if code := subprocess.run(command).returncode:
            return code
    return together(plan.together) if plan.together else 0


def together(commands: list[tuple[dict[str, str], list[str]]]) -> int:
    """Runs processes at once, until all have ended; the first exit code that is not 0, or 0.

    SIGTERM is passed on. Once one has failed the others have _GRACE_S seconds to end by themselves.
    """
    processes = [subprocess.Popen(command, env=os.environ | variables) for variables, command in commands]
    previous = signal.signal(signal.SIGTERM, lambda number, _: [one.send_signal(number) for one in processes])
    failed, deadline = 0, None
    try:
        while None in [one.poll() for one in processes]:
            failed = failed or next((one.returncode for one in processes if one.returncode), 0)
            if failed and deadline is None:
                deadline = time.monotonic() + _GRACE_S
            if deadline is not None and time.monotonic() > deadline:
                print("one process has failed; the others are ended", file=sys.stderr)
                break
            time.sleep(0.1)
    finally:  # also by an interrupt, which the processes got too
        for one in processes:
            if one.poll() is None:
                one.kill()
            one.wait()
        signal.signal(signal.SIGTERM, previous)
    return failed or next((one.returncode for one in processes if one.returncode), 0)
