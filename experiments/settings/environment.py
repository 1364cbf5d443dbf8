"""The number of processes of a run, from environment variables, and the limit on simulated devices. Free of jax."""

import os

from longctx.errors import UserError

SIMULATED = 2048  # the most devices of jax's CPU backend in one process


def count() -> int:
    """The number of processes: JAX_NUM_PROCESSES, or the tasks of a SLURM step, or the hosts of a TPU slice, or 1."""
    for name in ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS"):
        if name in os.environ:
            return number(name, 1)
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(hosts) * (number("MEGASCALE_NUM_SLICES", 1) or 1)


def number(name: str, least: int) -> int | None:
    """An environment variable as a number, None where it is not set. Raises UserError for less than `least`."""
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name}={text} in the environment must be a whole number of at least {least}.")
    return int(text)
