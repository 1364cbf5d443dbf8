"""GPUs or a TPU slice wherever SkyPilot finds them: a task that it starts again when machines are taken away."""

import re

from experiments.launching import packages, slices, storage
from experiments.launching.launcher import Launcher, Plan, dumped, name_option, storage_option, written
from longctx.errors import UserError


class Skypilot(Launcher):
    """Launches a managed job of SkyPilot: --type H100:8 --nodes 2 for GPUs, --type v5e-16 for a TPU slice."""

    def options(self, parser):
        name_option(parser)
        storage_option(parser)
        parser.add_argument("--type", required=True, help="GPUs of a node, such as H100:8, or a TPU slice, v5e-16")
        parser.add_argument("--nodes", type=int, default=1, metavar="N", help="number of nodes with GPUs")
        parser.add_argument("--infra", default="", help="where, such as gcp/us-central1; default anywhere")
        parser.add_argument("--restarts", type=int, default=20, metavar="N", help="the most after an error of the run")
        parser.add_argument("--spot", action="store_true", help="on machines that may be taken away")

    def plan(self, options, train):
        name = f"{options.name}.yaml"
        launch = ["sky", "jobs", "launch", "--name", options.name, "--yes", written(options, name)]
        return Plan({name: dumped(task(options, train))}, [launch])

    def delete(self, options):
        return Plan(commands=[["sky", "jobs", "cancel", "--name", options.name, "--yes"]])


def task(options, train) -> dict:
    """The task, as SkyPilot's YAML has it."""
    shared = storage.parse(options.storage)
    gpus = re.fullmatch(r"([A-Z]\w*(?:-\w+)*):(\d+)", options.type)
    if gpus:
        platform, devices = "gpu", int(gpus[2]) * options.nodes
        resources = {"accelerators": options.type}
    else:
        one = slices.parse(options.type)
        if options.nodes != 1:
            raise UserError(f"--nodes={options.nodes} is for GPUs; a slice such as --type={options.type} is one node.")
        platform, devices = "tpu", one.chips
        runtime = {"runtime_version": one.generation.runtime, "tpu_vm": True}
        resources = {"accelerators": f"tpu-{one.accelerator_type}", "accelerator_args": runtime}
    train = train.on(devices, f"{options.nodes} x {options.type}").kept_below(storage.MOUNT, options.name)
    resources |= {"infra": options.infra} if options.infra else {}
    setup = [] if shared.bucket else [shared.mounting]
    mounts = {storage.MOUNT: {"source": f"gs://{shared.bucket}", "mode": "MOUNT"}} if shared.bucket else {}
    return {
        "name": options.name,
        "workdir": ".",
        "num_nodes": options.nodes,
        "resources": resources
        | {"use_spot": options.spot, "job_recovery": {"max_restarts_on_errors": options.restarts}},
        **({"file_mounts": mounts} if mounts else {}),
        "setup": "\n".join(["set -e", *setup, packages.install(platform), ""]),
        "run": f". {packages.ENVIRONMENT}/bin/activate\n{train.line(platform)}\n",
    }
