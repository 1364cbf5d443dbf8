"""One process of several that are started by hand, told by options what clusters say in the environment."""

import sys

from experiments.launching import flags
from experiments.launching.launcher import Launcher, Plan
from longctx.errors import UserError


class Process(Launcher):
    """Starts one process of N, where nothing else starts them: the same command on each host, but for --index."""

    def options(self, parser):
        parser.add_argument("--coordinator", required=True, help="HOST:PORT of process 0, a free port")
        parser.add_argument("--processes", required=True, type=int, metavar="N", help="number of processes")
        parser.add_argument("--index", required=True, type=int, metavar="I", help="this one, from 0")
        parser.add_argument("--platform", choices=("tpu", "gpu", "cpu"), default="cpu", help="whose compiler flags")

    def plan(self, options, train):
        if not 0 <= options.index < options.processes:
            raise UserError(f"--index={options.index} must be from 0 to {options.processes - 1}.")
        host, _, port = options.coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise UserError(f"--coordinator={options.coordinator} must be HOST:PORT, such as node1:6002.")
        variables = {
            "JAX_COORDINATOR_ADDRESS": options.coordinator,
            "JAX_NUM_PROCESSES": str(options.processes),
            "JAX_PROCESS_ID": str(options.index),
        }
        variables |= flags.added(train.groups, options.platform)
        return Plan(together=[(variables, [sys.executable, *train.argv[1:]])])
