"""What each kind of cluster leaves in the environment, and what is read in it; jax finds the same where it can."""

import http.server
import threading

import pytest
from jax._src import clusters

from experiments.settings import cluster
from longctx.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NODELIST": "gpu[007,009-010],login1",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_GPUS_ON_NODE": "8",
}
OPENMPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}
GKE = {"TPU_WORKER_HOSTNAMES": "a.s,b.s", "TPU_WORKER_ID": "1", "TPU_ACCELERATOR_TYPE": "v5p-16"}
MULTISLICE = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "head.s:8080"}
XPK = {"NNODES": "2", "NODE_RANK": "1", "JAX_COORDINATOR_ADDRESS": "head"}
SKYPILOT = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
OWN = {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2", "JAX_COORDINATOR_ADDRESS": "h:1"}


def of(monkeypatch, environment) -> cluster.Cluster:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return cluster.detect()


@pytest.mark.parametrize(
    "environment, found",
    [
        ({}, ("one process", 1, 0, None, None)),
        (SLURM, ("slurm", 16, 9, "gpu007:62016", 16)),
        (SLURM | {"SLURM_STEP_NODELIST": "n1,n2"}, ("slurm", 16, 9, "n1:62016", 16)),
        (OPENMPI, ("openmpi", 4, 3, "10.96.0.1:62624", None)),
        (GKE, ("gke", 2, 1, "a.s:8482", 8)),
        (GKE | MULTISLICE, ("gke", 4, 3, "head.s:8482", 16)),
        (GKE | {"TPU_PROCESS_ADDRESSES": "c:1,d:2,e:3,f:4"}, ("gke", 4, 1, "c:8482", 8)),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, ("gke", 1, 0, "localhost:8482", None)),
        (XPK, ("xpk", 2, 1, "head:6002", None)),
        (XPK | {"JAX_COORDINATOR_PORT": "7"}, ("xpk", 2, 1, "head:7", None)),
        (SKYPILOT, ("skypilot", 2, 1, "10.0.0.1:6002", None)),
        (SKYPILOT | {"SKYPILOT_NUM_GPUS_PER_NODE": "8"}, ("skypilot", 2, 1, "10.0.0.1:6002", 16)),
        (OWN, ("variables", 4, 2, "h:1", None)),
        ({"JAX_NUM_PROCESSES": "2"}, ("variables", 2, None, None, None)),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "h:1"}, ("slurm", 16, 9, "h:1", 16)),
        (SLURM | {"JAX_NUM_PROCESSES": "1"}, ("one process", 1, 0, None, None)),
    ],
    ids=str,
)
def test_what_is_recognised(environment, found, monkeypatch):
    made = of(monkeypatch, environment)
    assert (made.kind, made.processes, made.index, made.coordinator, made.devices) == found
    assert dict(made.given).items() <= environment.items()


@pytest.mark.parametrize(
    "environment, kind",
    [(SLURM, clusters.SlurmCluster), (OPENMPI, clusters.OmpiCluster), (GKE, clusters.GkeTpuCluster)],
    ids=["slurm", "openmpi", "gke"],
)
def test_jax_finds_the_same(environment, kind, monkeypatch):
    """Process 0 counts the others where jax will then make them meet."""
    made = of(monkeypatch, environment)
    monkeypatch.setattr(kind, "wait_for_coordinator", lambda *_: None, raising=False)
    monkeypatch.setattr(kind, "_get_num_slices", lambda: 1, raising=False)
    monkeypatch.setattr(kind, "_get_slice_id", lambda: 0, raising=False)
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "")  # is asked of the metadata server where it is not set
    jax_finds = kind.get_coordinator_address(1, None), kind.get_process_count(), kind.get_process_id()
    assert jax_finds == (made.coordinator, made.processes, made.index)


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two .* must be a whole number of at least 1"),
        (OWN | {"JAX_PROCESS_ID": "4"}, "this is process 4 of 4 .*JAX_PROCESS_ID=4.* numbered from 0 to 3"),
        (SLURM | {"SLURM_PROCID": "x"}, "SLURM_PROCID=x .* whole number"),
        (GKE | {"MEGASCALE_NUM_SLICES": "x"}, "MEGASCALE_NUM_SLICES=x .* whole number"),
        (XPK | {"JAX_COORDINATOR_PORT": "http"}, "JAX_COORDINATOR_PORT=http .* whole number"),
    ],
)
def test_what_is_no_number_is_named(environment, message, monkeypatch):
    with pytest.raises(UserError, match=message):
        of(monkeypatch, environment)


@pytest.fixture
def metadata(monkeypatch):
    """A metadata server of a TPU machine; its attributes may be changed."""
    attributes = {
        "agent-worker-number": "2",
        "worker-network-endpoints": "u:1:10.0.0.4,u:2:10.0.0.5,u:3:10.0.0.6,u:4:10.0.0.7",
        "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nZONE: 'z'\n",
    }

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            text = attributes.get(self.path.rsplit("/", 1)[1])
            asked_well = self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if text and asked_well else 404)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)  # jax sets it on machines without TPUs
    monkeypatch.setattr(cluster, "_has_tpu", lambda: True)
    cluster._metadata.cache_clear()
    yield attributes
    server.shutdown()
    server.server_close()
    cluster._metadata.cache_clear()


def test_hosts_of_a_tpu_slice_are_found_where_no_variable_says_so(metadata):
    made = cluster.detect()
    assert (made.kind, made.processes, made.index) == ("tpu_vm", 4, 2)
    assert made.coordinator == "10.0.0.4:8482" and made.devices == 16


def test_hosts_of_two_tpu_slices(metadata):
    metadata["worker-network-endpoints"] = "10.0.0.4,10.0.0.5,10.0.0.6,10.0.0.7"
    metadata["tpu-env"] += "".join(f"{name}: '{value}'\n" for name, value in MULTISLICE.items())
    made = cluster.detect()
    assert (made.processes, made.index, made.coordinator, made.devices) == (8, 6, "head.s:8482", 32)


def test_a_machine_whose_server_knows_no_slice_is_one_process(metadata):
    metadata.clear()
    assert cluster.detect().processes == 1


def test_no_server_is_asked_where_there_is_no_tpu(metadata, monkeypatch):
    monkeypatch.setattr(cluster, "_has_tpu", lambda: False)
    assert cluster.detect().processes == 1 and cluster._metadata.cache_info().misses == 0
