"""The number of processes of a run, from environment variables, and the limit on simulated devices. Free of jax."""

from experiments.settings import cluster
from experiments.settings.cluster import number as number

SIMULATED = 2048  # the most devices of jax's CPU backend in one process


def count() -> int:
    """The number of processes: JAX_NUM_PROCESSES, or what a cluster says that was recognised, or 1."""
    return cluster.detect().processes
