"""Several processes on this machine: what a cluster does, in small."""

import socket
import sys

from experiments.launching import flags
from experiments.launching.launcher import Launcher, Plan
from longctx.errors import UserError


class Local(Launcher):
    """Starts N processes on this machine that are one run: `local 2 -- --config FILE --config.mesh.simulate=4 ...`.

    The devices that mesh.simulate plays are shared by them. GPUs are shared too, in order, and must divide by N.
    """

    def options(self, parser):
        parser.add_argument("processes", type=int, metavar="N", help="number of processes")
        parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs of this machine; each has its share")

    def plan(self, options, train):
        count, gpus = options.processes, options.gpus
        if gpus % count:
            raise UserError(f"--gpus={gpus} must divide by the {count} processes.")
        shared = {"JAX_COORDINATOR_ADDRESS": f"localhost:{_free_port()}", "JAX_NUM_PROCESSES": str(count)}
        shared |= flags.added(train.groups, "gpu" if gpus else "cpu")
        share, plan = gpus // count, Plan()
        for i in range(count):
            own = {"JAX_PROCESS_ID": str(i)}
            if share:
                own["JAX_LOCAL_DEVICE_IDS"] = ",".join(str(i * share + j) for j in range(share))
            plan.together.append((shared | own, [sys.executable, *train.argv[1:]]))
        return plan


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]
