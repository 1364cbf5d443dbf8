"""TPU slices on Kubernetes (GKE): a JobSet, one job for each slice and one pod for each host."""

from experiments.launching import slices, storage
from experiments.launching.launcher import USER_ERROR, Launcher, Plan, dumped, slice_options, storage_option, written

_PORTS = 8471, 8080, 8482  # libtpu's, MEGASCALE's and jax's
_GRACE_S = 120  # from SIGTERM to SIGKILL: the run saves


class Gke(Launcher):
    """Applies a JobSet for TPU slices to the cluster that kubectl is set to; it starts again by itself."""

    def options(self, parser):
        slice_options(parser)
        storage_option(parser)
        parser.add_argument("--image", required=True, help="as `launch docker` has pushed it")
        parser.add_argument("--namespace", default="default", help="of Kubernetes")
        parser.add_argument("--queue", default="", help="a local queue of Kueue")
        parser.add_argument("--spot", action="store_true", help="on spot nodes")
        parser.add_argument("--restarts", type=int, default=100, metavar="N", help="the most that a run starts again")

    def plan(self, options, train):
        name = f"{options.name}.yaml"
        return Plan({name: dumped(manifest(options, train))}, [["kubectl", "apply", "-f", written(options, name)]])

    def delete(self, options):
        return Plan(commands=[["kubectl", "delete", "jobset", options.name, "--namespace", options.namespace]])


def manifest(options, train) -> dict:
    """The JobSet."""
    one = slices.parse(options.type)
    train = train.on(one.chips * options.slices, f"{options.slices} x {options.type}")
    train = train.kept_below(storage.MOUNT, options.name)
    labels = {"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {}
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    job = {
        "parallelism": one.hosts,
        "completions": one.hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [USER_ERROR]}}]
        },
        "template": _pod(options, train, one),
    }
    stop = {"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": options.name,
            "namespace": options.namespace,
            "annotations": exclusive,
            **({"labels": labels} if labels else {}),
        },
        "spec": {
            "failurePolicy": {"maxRestarts": options.restarts, "rules": [stop]},
            "replicatedJobs": [{"name": "slice", "replicas": options.slices, "template": {"spec": job}}],
        },
    }


def _pod(options, train, one: slices.Slice) -> dict:
    shared = storage.parse(options.storage)
    node = {"cloud.google.com/gke-tpu-accelerator": one.generation.label}
    node |= {"cloud.google.com/gke-tpu-topology": one.topology}
    if options.spot:
        node["cloud.google.com/gke-spot"] = "true"
    container = {
        "name": "train",
        "image": options.image,
        "command": train.argv,
        "env": [{"name": name, "value": value} for name, value in train.environment("tpu").items()],
        "ports": [{"containerPort": port} for port in _PORTS],
        "resources": {"requests": {"google.com/tpu": one.per_host}, "limits": {"google.com/tpu": one.per_host}},
        "volumeMounts": [{"name": "shared", "mountPath": storage.MOUNT}],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_S,
        "nodeSelector": node,
        "containers": [container],
        "volumes": [{"name": "shared", **shared.volume}],
    }
    return (
        {"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}, "spec": pod} if shared.bucket else {"spec": pod}
    )
