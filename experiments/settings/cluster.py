"""Kinds of clusters that start a run's processes, recognised by what they leave in the environment. Free of jax.

`detect()` says how many processes there are, which one this is and where process 0 is to be found. jax.distributed
finds the same facts by itself; they are needed before jax is imported, to check settings, and to say in words what a
run waits for. Variables of the user's own come first:

    JAX_NUM_PROCESSES, JAX_PROCESS_ID, JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_COORDINATOR_PORT

and replace what a cluster says, one by one.
"""

import dataclasses
import functools
import os
import pathlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable

from longctx.errors import UserError

TPU_PORT, GPU_PORT = 8482, 6002  # jax's for TPU slices; XPK's for GPUs
_OWN = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS"
_METADATA_S = 5.0  # a server that is there answers in milliseconds
_GOOGLE = "0x1ae0"  # vendor of PCI devices: TPUs, and also network cards and disks of its virtual machines
_NO_ACCELERATORS = "0x01", "0x02"  # classes of PCI devices: storage, network


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run, as one of them sees it.

    Attributes:
      kind: a name in KINDS, or "one process".
      processes: their number.
      index: this process's, from 0; None where only jax can tell.
      coordinator: HOST:PORT of process 0; None where only jax can tell.
      devices: the accelerators that all processes have together; None where the environment does not say.
      given: the variables, and their values, by which it was recognised.
    """

    kind: str
    processes: int = 1
    index: int | None = 0
    coordinator: str | None = None
    devices: int | None = None
    given: tuple[tuple[str, str], ...] = ()

    @property
    def told(self) -> bool:
        """Whether jax does not recognise this kind, and must be told all."""
        return self.kind in ("variables", "xpk", "skypilot")


def detect() -> Cluster:
    """The Cluster that this process is part of.

    Raises UserError where the variables contradict one another, or are no numbers.
    """
    found = next((cluster for make in KINDS.values() if (cluster := make())), Cluster("one process"))
    own = {name: os.environ[name] for name in _OWN if os.environ.get(name)}
    processes = number("JAX_NUM_PROCESSES", 1) or found.processes
    if not own or processes == 1:
        return found if processes == found.processes else Cluster("one process", given=(*found.given, *own.items()))
    alone = found.kind == "one process"
    index = number("JAX_PROCESS_ID", 0)
    cluster = dataclasses.replace(
        found,
        kind="variables" if alone else found.kind,
        processes=processes,
        index=(None if alone else found.index) if index is None else index,
        coordinator=_address(own.get("JAX_COORDINATOR_ADDRESS"), GPU_PORT) or found.coordinator,
        given=(*found.given, *own.items()),
    )
    if cluster.index is not None and cluster.index >= processes:
        raise UserError(
            f"this is process {cluster.index} of {processes} by the environment ({_said(cluster)}), and they are "
            f"numbered from 0 to {processes - 1}."
        )
    return cluster


def number(name: str, least: int) -> int | None:
    """An environment variable as a number, None where it is not set. Raises UserError for less than `least`."""
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name}={text} in the environment must be a whole number of at least {least}.")
    return int(text)


# ---- the kinds, in the order in which jax looks for them -------------------------------------------------------------


def openmpi() -> Cluster | None:
    """The processes that mpirun of Open MPI 4 has started; version 5 tells jax no address."""
    names = "OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"
    if not (given := _given(*names, need=3)):
        return None
    uri = os.environ[names[0]]
    host = re.search(r"tcp6?://\[?([^,\]]+?)[,:\]]", uri)
    job = re.match(r"\d+", uri)
    address = _address(host[1], _ephemeral(int(job[0]) // 2**12)) if host and job else None
    return Cluster("openmpi", number(names[1], 1) or 1, number(names[2], 0), address, None, given)


def slurm() -> Cluster | None:
    """The tasks of one srun."""
    if not (given := _given("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID", need=1)):
        return None
    job, nodes = number("SLURM_JOB_ID", 0), os.environ.get("SLURM_STEP_NODELIST", "")
    first = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    port = _ephemeral(job or 0)
    address = _address(first[1] + (first[2] or ""), port) if first and job is not None else None
    # one of these for the nodes of a step, by how the GPUs were asked for
    gpus, count = number("SLURM_GPUS_ON_NODE", 0), number("SLURM_STEP_NUM_NODES", 1) or number("SLURM_NNODES", 1)
    devices = gpus * count if gpus and count else None
    return Cluster("slurm", number("SLURM_STEP_NUM_TASKS", 1) or 1, number("SLURM_PROCID", 0), address, devices, given)


def gke() -> Cluster | None:
    """The pods of TPU slices on Kubernetes: a JobSet by hand, or XPK's."""
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES")
    if not hosts:
        return None
    given = _given("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID", *_SLICES)
    return _slices("gke", hosts.split(","), number("TPU_WORKER_ID", 0), dict(os.environ), given)


def tpu_vm() -> Cluster | None:
    """The hosts of Cloud TPU slices: their metadata server knows them, no variable does."""
    if not _has_tpu() or os.environ.get("TPU_SKIP_MDS_QUERY"):
        return None
    worker, hosts = _metadata("agent-worker-number"), _metadata("worker-network-endpoints")
    if not worker or not worker.isdecimal() or not hosts:
        return None
    rows = [line.split(":", 1) for line in (_metadata("tpu-env") or "").splitlines() if ":" in line]
    facts = {name.strip(): value.strip().strip("'") for name, value in rows} | dict(os.environ)
    addresses = [host.split(":")[2] if host.count(":") == 2 else host for host in hosts.split(",")]  # name:id:address
    given = ("agent-worker-number", worker), ("worker-network-endpoints", hosts)
    given += tuple((name, facts[name]) for name in _SLICES if name in facts)
    return _slices("tpu_vm", addresses, int(worker), facts, given)


def xpk() -> Cluster | None:
    """The pods of GPU nodes on Kubernetes that XPK has started, one process per node."""
    given = _given("NNODES", "NODE_RANK", "JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_IP")
    if len(given) < 3:
        return None
    host = os.environ.get("JAX_COORDINATOR_ADDRESS") or os.environ.get("JAX_COORDINATOR_IP")
    return Cluster("xpk", number("NNODES", 1) or 1, number("NODE_RANK", 0), _address(host, GPU_PORT), None, given)


def skypilot() -> Cluster | None:
    """The nodes of a SkyPilot task, one process per node."""
    if len(given := _given("SKYPILOT_NUM_NODES", "SKYPILOT_NODE_RANK", "SKYPILOT_NODE_IPS")) < 3:
        return None
    nodes, gpus = number("SKYPILOT_NUM_NODES", 1) or 1, number("SKYPILOT_NUM_GPUS_PER_NODE", 0)
    head = os.environ["SKYPILOT_NODE_IPS"].split()[0]
    devices = gpus * nodes if gpus else None
    return Cluster("skypilot", nodes, number("SKYPILOT_NODE_RANK", 0), _address(head, GPU_PORT), devices, given)


KINDS: dict[str, Callable[[], Cluster | None]] = {
    "openmpi": openmpi,
    "slurm": slurm,
    "gke": gke,
    "tpu_vm": tpu_vm,
    "xpk": xpk,
    "skypilot": skypilot,
}


# ---- parts of them ---------------------------------------------------------------------------------------------------

_SLICES = "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID", "MEGASCALE_COORDINATOR_ADDRESS"


def _slices(kind: str, hosts: list[str], worker: int | None, facts: dict[str, str], given) -> Cluster:
    """The Cluster of one TPU slice with these hosts, or of several by the MEGASCALE_ variables among the facts."""
    for name in _SLICES[:2]:
        if not facts.get(name, "0").isdecimal():
            raise UserError(f"{name}={facts[name]} in the environment must be a whole number.")
    slices, own = int(facts.get(_SLICES[0], "1")) or 1, int(facts.get(_SLICES[1], "0"))
    head = facts.get(_SLICES[2]) or hosts[0]
    port = number("JAX_COORDINATOR_PORT", 1) or TPU_PORT
    index = None if worker is None else worker + own * len(hosts)
    if len(hosts) * slices == 1:
        index = 0
    chips = _chips(facts)
    devices = chips * slices if chips else None
    return Cluster(kind, len(hosts) * slices, index, f"{head.split(':')[0]}:{port}", devices, given)


def _chips(facts: dict[str, str]) -> int | None:
    """The number of jax devices in a slice, by its type: "v5litepod-64" counts chips, "v4-32" cores, two per chip."""
    kind = re.fullmatch(r"(v\w+)-(\d+)", facts.get("TPU_ACCELERATOR_TYPE") or facts.get("ACCELERATOR_TYPE") or "")
    if not kind:
        return None
    return int(kind[2]) // 2 if kind[1] in ("v4", "v5p") else int(kind[2])


def _given(*names: str, need: int = 0) -> tuple[tuple[str, str], ...]:
    """(name, value) of the variables that are set; none where one of the first `need` is not."""
    if any(not os.environ.get(name) for name in names[:need]):
        return ()
    return tuple((name, os.environ[name]) for name in names if os.environ.get(name))


def _address(host: str | None, port: int) -> str | None:
    """HOST:PORT, with JAX_COORDINATOR_PORT or else `port` where the host names none."""
    if not host or re.search(r":\d+$", host):
        return host or None
    return f"{host}:{number('JAX_COORDINATOR_PORT', 1) or port}"


def _ephemeral(job: int) -> int:
    """The port that jax takes for a job of this number: one of the last 4096."""
    return job % 2**12 + 65536 - 2**12


def _said(cluster: Cluster) -> str:
    return ", ".join(f"{name}={value}" for name, value in cluster.given)


def _has_tpu() -> bool:
    """Whether the machine has a device of Google's that is neither a disk nor a network card."""
    for folder in pathlib.Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (folder / "vendor").read_text().strip(), (folder / "class").read_text().strip()
        except OSError:
            continue
        if vendor == _GOOGLE and not kind.startswith(_NO_ACCELERATORS):
            return True
    return False


@functools.cache
def _metadata(name: str) -> str | None:
    """An attribute of this virtual machine; None where there is none, or no server that answers."""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{name}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=_METADATA_S) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError):
        return None
