"""Cloud TPU slices by queued resources: a script of gcloud that creates them, trains, starts again, and cleans up."""

import pathlib
import shlex

from experiments.launching import packages, slices, storage
from experiments.launching.launcher import Launcher, Plan, slice_options, storage_option, written

BODY = pathlib.Path(__file__).with_name("tpu.sh")
CAPACITY = {"on-demand": (), "spot": ("--spot",), "reserved": ("--reserved",)}

_EXPANDED = "# shellcheck disable=SC2016,SC2088 # what stands in single quotes is for the shells of the hosts"


class Tpu(Launcher):
    """Rents Cloud TPU slices by queued resources, trains on all their hosts, and gives them back.

    What is committed here is what they get. A slice that is preempted is asked for again, and the run goes on. The same
    command finds a run that goes on; an interrupt leaves it alone.
    """

    def options(self, parser):
        slice_options(parser)
        storage_option(parser)
        parser.add_argument("--zone", required=True, help="of Google Cloud, such as us-west4-a")
        parser.add_argument("--project", default="", help="of Google Cloud; default gcloud's own")
        parser.add_argument("--capacity", choices=CAPACITY, default="on-demand", help="spot may be preempted")
        parser.add_argument("--restarts", type=int, default=20, metavar="N", help="the most that a run starts again")
        parser.add_argument("--setup", default="true", metavar="COMMAND", help="on each host, before the packages")
        parser.add_argument("--keep", action="store_true", help="leave the slices there at the end")

    def plan(self, options, train):
        name = f"{options.name}.sh"
        return Plan({name: script(options, train)}, [["bash", written(options, name)]])

    def delete(self, options):
        tpu = ["gcloud", "compute", "tpus", "queued-resources", "delete", options.name, "--force", "--quiet"]
        return Plan(commands=[[*tpu, *_where(options)]])


def script(options, train) -> str:
    """The text of the script: what differs between runs, then tpu.sh."""
    one = slices.parse(options.type)
    train = train.on(one.chips * options.slices, f"{options.slices} x {options.type}")
    train = train.kept_below(storage.MOUNT, options.name)
    nodes = [options.name] if options.slices == 1 else [f"{options.name}-{i}" for i in range(options.slices)]
    several = ("--node-count", str(options.slices), "--node-prefix", options.name)
    request = [*(several if options.slices > 1 else ("--node-id", options.name)), *CAPACITY[options.capacity]]
    request += ["--accelerator-type", one.accelerator_type, "--runtime-version", one.generation.runtime]
    values = {
        "name": options.name,
        "mounting": storage.parse(options.storage).mounting,
        "setup": options.setup,
        "packages": packages.install("tpu"),
        "train": train.line("tpu"),
        "restarts": str(options.restarts),
        "keep": "yes" if options.keep else "no",
    }
    lists = {"where": _where(options), "nodes": nodes, "request": request}
    lines = [f"{key}={shlex.quote(value)}" for key, value in values.items()]
    lines += [f"{key}=({shlex.join(words)})" for key, words in lists.items()]
    return "\n".join(["#!/usr/bin/env bash", _EXPANDED, *lines, "", BODY.read_text()])


def _where(options) -> list[str]:
    return [f"--zone={options.zone}", *([f"--project={options.project}"] if options.project else [])]
