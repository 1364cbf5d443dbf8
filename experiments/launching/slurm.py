"""Nodes with GPUs under Slurm: a batch script that stops in time, and queues itself again until the run is done."""

import pathlib
import shlex

from experiments.launching.launcher import Launcher, Plan, name_option, written
from longctx.errors import UserError

BODY = pathlib.Path(__file__).with_name("slurm.sh")


class Slurm(Launcher):
    """Submits a batch job, one process per node; before its time is over the run saves and the job is queued again.

    Nodes and this machine see one disk, and the job starts in this folder, with the Python that runs here.
    """

    def options(self, parser):
        name_option(parser)
        parser.add_argument("--nodes", type=int, default=1, metavar="N", help="number of nodes")
        parser.add_argument("--gpus", type=int, default=8, metavar="N", help="GPUs of a node")
        parser.add_argument("--time", default="24:00:00", help="limit of a job; the run may take many")
        parser.add_argument("--partition", default="", help="of the cluster; default its own")
        parser.add_argument("--account", default="", help="of the cluster; default its own")
        parser.add_argument(
            "--restarts", type=int, default=100, metavar="N", help="the most that a job is queued again"
        )

    def plan(self, options, train):
        name = f"{options.name}.sh"
        return Plan({name: script(options, train)}, [["sbatch", written(options, name)]])

    def delete(self, options):
        return Plan(commands=[["scancel", "--name", options.name]])


def script(options, train) -> str:
    """The text of the batch script: what differs between jobs, then slurm.sh."""
    if options.gpus < 1:
        raise UserError(f"--gpus={options.gpus} must be at least 1.")
    train = train.on(options.nodes * options.gpus, f"{options.nodes} x {options.gpus} GPUs")
    given = {
        "job-name": options.name,
        "nodes": options.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": options.gpus,
        "exclusive": "",
        "time": options.time,
        "partition": options.partition,
        "account": options.account,
        "output": f"{options.name}-%j.log",
        "open-mode": "append",
        "requeue": "",
        "signal": "B:USR1@300",
    }
    left_out = [name for name in ("partition", "account") if not given[name]]
    head = [f"#SBATCH --{k}" + (f"={v}" if v != "" else "") for k, v in given.items() if k not in left_out]
    values = [f"restarts={options.restarts}", f"train={shlex.quote(train.line('gpu'))}"]
    return "\n".join(["#!/usr/bin/env bash", *head, *values, "", BODY.read_text()])
