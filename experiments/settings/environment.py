"""Numbers of processes and devices that the environment speaks of. Free of jax."""

import os

from longctx.errors import UserError

SIMULATED = 2048  # devices that jax's CPU backend has in one process, at most


def count() -> int:
    """How many processes the environment speaks of; 1 where it says nothing.

    JAX_NUM_PROCESSES, or else the tasks of a SLURM step, or else the hosts of a TPU slice (Kubernetes).
    """
    for name in ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS"):
        if name in os.environ:
            return number(name, 1)
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(hosts) * (number("MEGASCALE_NUM_SLICES", 1) or 1)


def number(name: str, least: int) -> int | None:
    """An environment variable as a number; None where it is not set."""
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name}={text} in the environment must be a whole number of at least {least}.")
    return int(text)
