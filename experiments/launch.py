"""Starts a training run on several hosts: on this machine, on a TPU pod, on Kubernetes, under Slurm or by SkyPilot.

    python -m experiments.launch --check
    python -m experiments.launch local 2 -- --config configs/quickstart.py:context=4
    python -m experiments.launch tpu --name NAME --type v5e-64 --zone ZONE --storage HOST:/EXPORT -- --config FILE
    python -m experiments.launch LAUNCHER --help

What follows -- are the arguments of experiments.train; its settings are checked here first. --dry-run prints files and
commands instead of running them, --delete takes down what a launch made. --check prints what a run started here would
find: the kind of cluster and the variables that say so, the processes, the coordinator.

Nothing but `local` and `process` has been run: no cloud was at hand. The rest is checked as text.
"""

import inspect
import sys

from experiments.run import command
from experiments.settings.console import Parser
from longctx.errors import UserError


def main(argv) -> None:
    from experiments.launching import api, checking, flags

    own, settings = _divided(argv[1:])
    if own == ["--check"]:
        print(checking.report())
        return
    if not own or own[0] in ("-h", "--help"):
        lines = [f"  {name:10}{_first_line(one)}" for name, one in api.LAUNCHERS.items()]
        print(f"{__doc__}".strip(), "", *lines, sep="\n")
        return
    launcher = api.launcher(own[0])
    parser = Parser(f"{inspect.getdoc(launcher)}\n\nWhat follows -- are the arguments of experiments.train.")
    launcher.options(parser)
    parser.add_argument("--flags", default="overlap", help=f"groups of compiler flags: {', '.join(flags.GROUPS)}, none")
    parser.add_argument("--out", default="runs/launch", help="the folder for the files that it makes")
    parser.add_argument("--dry-run", action="store_true", help="print files and commands, and do nothing")
    parser.add_argument("--delete", action="store_true", help="take down what it has made")
    options, rest = parser.parse_with_settings(own[1:], texts=("storage", "setup", "image"))
    options.launcher = own[0]
    if rest:
        raise UserError(f"{rest[0]} is for experiments.train: put it after --.")
    api.check(options)
    plan = _plan(launcher, options, settings)
    if options.dry_run:
        print(api.shown(plan, options.out))
    elif code := api.run(plan, options.out):
        sys.exit(code)


def _divided(argv: list[str]) -> tuple[list[str], list[str]]:
    """The arguments before and after the first "--"."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def _first_line(documented) -> str:
    return (inspect.getdoc(documented) or "").split("\n")[0]


def _plan(launcher, options, settings: list[str]):
    from experiments.launching.launcher import Train, train
    from longctx.config import MeshConfig

    if options.delete:
        return launcher.delete(options)
    if launcher.needs_train:
        return launcher.plan(options, train(settings, options.flags))
    if settings:
        raise UserError(f"{options.launcher} trains nothing: leave out {' '.join(settings)}.")
    return launcher.plan(options, Train((), MeshConfig()))


if __name__ == "__main__":
    command.run(main)
