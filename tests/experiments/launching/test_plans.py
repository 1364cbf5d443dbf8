"""What each launcher would write and run, by its dry run. None of it has met a cloud."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml

from experiments import launch
from experiments.launching import api, checking, slices, storage
from longctx.errors import UserError
from tests.experiments.launching.helpers import GKE, SKYPILOT, SLURM, TPU, XPK, config, dry
from tests.experiments.settings.test_bad_input import has, problem
from tests.helpers import ROOT

TRAIN = "python -m experiments.train --config configs/quickstart.py --config.mesh.context="


def test_every_launcher_begins_with_the_same_command(capsys, monkeypatch):
    for argv, devices, more in (
        (TPU, 64, []),
        (XPK, 16, ["--workdir", "/data/x"]),
        (SLURM, 16, []),
        (SKYPILOT, 16, []),
    ):
        files, commands = dry(capsys, monkeypatch, argv, config(devices, *more))
        text = "\n".join([*files.values(), *(" ".join(command) for command in commands)])
        assert f"{TRAIN}{devices}" in text and "LONGCTX_STOPPED_CODE=75" in text
        assert ("xla_gpu_enable" if argv in (SLURM, SKYPILOT) else "xla_enable_async") in text
        none, _ = dry(capsys, monkeypatch, [*argv, "--flags", "none"], config(devices, *more))
        assert "xla_" not in "".join(none.values())


def test_a_jobset_is_whole(capsys, monkeypatch):
    files, commands = dry(capsys, monkeypatch, [*GKE, "--slices", "2", "--spot", "--queue", "q"], config(16))
    assert commands == [["kubectl", "apply", "-f", "runs/launch/run1.yaml"]]
    made = yaml.safe_load(files["runs/launch/run1.yaml"])
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert made["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "q"}
    [jobs] = made["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    assert (jobs["replicas"], job["parallelism"], job["completions"], job["backoffLimit"]) == (2, 2, 2, 0)
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert " ".join(container["command"]) == f"{TRAIN}16 --workdir /mnt/longctx/run1"
    assert container["resources"]["limits"] == container["resources"]["requests"] == {"google.com/tpu": 4}
    assert {entry["name"] for entry in container["env"]} == {"LIBTPU_INIT_ARGS", "LONGCTX_STOPPED_CODE"}
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x2x2",
        "cloud.google.com/gke-spot": "true",
    }
    assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert pod["restartPolicy"] == "Never"  # what a failure policy for pods needs


def test_an_nfs_export_is_a_volume(capsys, monkeypatch):
    argv = [word if word != "gs://bucket" else "10.0.0.2:/share" for word in GKE]
    files, _ = dry(capsys, monkeypatch, argv, config(8))
    pod = yaml.safe_load(files["runs/launch/run1.yaml"])["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["spec"]["volumes"] == [{"name": "shared", "nfs": {"server": "10.0.0.2", "path": "/share"}}]


def test_a_task_of_skypilot(capsys, monkeypatch):
    files, [command] = dry(capsys, monkeypatch, [*SKYPILOT, "--spot"], config(16))
    made = yaml.safe_load(files["runs/launch/run1.yaml"])
    assert command == ["sky", "jobs", "launch", "--name", "run1", "--yes", "runs/launch/run1.yaml"]
    assert made["num_nodes"] == 2 and made["resources"]["accelerators"] == "H100:8" and made["resources"]["use_spot"]
    assert made["file_mounts"] == {"/mnt/longctx": {"source": "gs://bucket", "mode": "MOUNT"}}
    assert "'.[gpu,data]'" in made["setup"] and made["run"].count("\n") == 2
    slice_of_tpus = ["skypilot", "--name", "r", "--type", "v5e-16", "--storage", "h:/e"]
    made = yaml.safe_load(dry(capsys, monkeypatch, slice_of_tpus, config(16))[0]["runs/launch/r.yaml"])
    assert made["resources"]["accelerators"] == "tpu-v5litepod-16" and "mount h:/e" in made["setup"]


def test_an_image(capsys, monkeypatch):
    files, commands = dry(capsys, monkeypatch, ["docker", "--image", "r/i:1", "--platform", "tpu"], [])
    assert [command[:2] for command in commands] == [["docker", "build"], ["docker", "push"]]
    copied = re.findall(r"^COPY (.+) \S+$", files["runs/launch/Dockerfile"], re.MULTILINE)
    assert all((ROOT / name).exists() for names in copied for name in names.split())
    assert "'.[tpu,data]'" in files["runs/launch/Dockerfile"]


@pytest.mark.parametrize(
    "argv, deletes",
    [
        (TPU, "gcloud compute tpus queued-resources delete run1 --force --quiet --zone=z"),
        (GKE, "kubectl delete jobset run1 --namespace default"),
        (XPK, "xpk workload delete --workload run1 --cluster c --force"),
        (SLURM, "scancel --name run1"),
        (SKYPILOT, "sky jobs cancel --name run1 --yes"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_deletes(argv, deletes, capsys, monkeypatch):
    files, commands = dry(capsys, monkeypatch, [*argv, "--delete"], [])
    assert files == {} and [" ".join(command) for command in commands] == [deletes]


@pytest.mark.parametrize(
    "argv, settings, parts",
    [
        (["tpus"], [], ["launcher='tpus' is not known", "Did you mean 'tpu'?", "skypilot"]),
        (TPU[:5], config(64), ["missing"]),
        ([*TPU, "--zoom", "z"], config(64), ["--zoom is not an option", "Did you mean --zone?"]),
        (TPU, config(32), ["is of 32 devices", "1 x v5e-64 has 64", "--config.mesh.context=64"]),
        (TPU, config(64, "--config.mesh.simulate=64"), ["mesh.simulate=64", "needs 0"]),
        (TPU, config(64, "--config.modle.layers=2"), ["modle.layers", "Did you mean model.layers?"]),
        (TPU, config(64, "--workdir", "runs/x"), ["--workdir runs/x", "below /mnt/longctx"]),
        (TPU, [], ["--config is missing"]),
        ([*TPU, "--config.mesh.context=64"], [], ["put it after --"]),
        ([*TPU, "--flags", "fast"], config(64), ["--flags='fast' is not known", "overlap"]),
        ([*TPU, "--slices", "0"], config(64), ["--slices=0", "at least 1"]),
        ([*TPU[:2], "Run_1", *TPU[3:]], config(64), ["--name=Run_1", "small letters"]),
        ([*TPU[:4], "v5e-63", *TPU[5:]], config(64), ["--type=v5e-63", "4, 8, 16, 32, 64"]),
        ([*TPU[:4], "h100-8", *TPU[5:]], config(64), ["--type='h100-8' is not known", "v5p-128"]),
        ([*TPU[:-1], "bucket"], config(64), ["--storage='bucket'", "HOST:/EXPORT", "gs://BUCKET"]),
        (XPK, config(16), ["--workdir is missing"]),
        ([*SLURM, "--gpus", "0"], config(16), ["--gpus=0"]),
        ([*SKYPILOT[:4], "v5e-16", *SKYPILOT[5:]], config(16), ["--nodes=2 is for GPUs"]),
        (["docker", "--image", "i", "--platform", "tpu"], config(1), ["trains nothing"]),
        (["docker", "--image", "i", "--platform", "tpu", "--delete"], [], ["makes nothing that stays"]),
        (["local", "3", "--gpus", "8"], config(1), ["--gpus=8", "divide by the 3"]),
        (["local", "0"], config(1), ["--processes=0"]),
        (["process", "--coordinator", "h", "--processes", "2", "--index", "0"], config(1), ["--coordinator=h"]),
        (["process", "--coordinator", "h:1", "--processes", "2", "--index", "2"], config(1), ["--index=2", "0 to 1"]),
    ],
)
def test_what_is_refused_before_anything_is_rented(argv, settings, parts, capsys, monkeypatch):
    try:
        has(problem(dry, capsys, monkeypatch, argv, settings), *parts)
    except SystemExit:  # of argparse, with a line of the same form
        has(capsys.readouterr().err, "error: ", *parts)


def test_a_config_elsewhere_is_refused(capsys, monkeypatch, tmp_path):
    shutil.copy(ROOT / "configs" / "quickstart.py", tmp_path / "c.py")
    settings = ["--", "--config", str(tmp_path / "c.py"), "--config.mesh.context=64"]
    has(problem(dry, capsys, monkeypatch, TPU, settings), "is outside of this folder")


def test_a_program_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    plan = api.Plan({"a": "b"}, [["kubectl", "apply"]])
    has(problem(api.run, plan, str(tmp_path)), "kubectl is not installed here", "--dry-run")
    assert not list(tmp_path.iterdir())


def test_files_are_written_and_the_first_failure_ends_a_plan(tmp_path):
    plan = api.Plan({"a.txt": "b"}, [["bash", "-c", "exit 3"], ["bash", "-c", f"touch {tmp_path}/c"]])
    assert api.run(plan, str(tmp_path / "out")) == 3
    assert (tmp_path / "out" / "a.txt").read_text() == "b" and not (tmp_path / "c").exists()


def test_processes_run_at_once_and_one_failure_ends_all(monkeypatch):
    monkeypatch.setattr(api, "_GRACE_S", 0.2)
    sleeps = ({}, [sys.executable, "-c", "import time; time.sleep(60)"])
    fails = ({"CODE": "7"}, [sys.executable, "-c", "import os; os._exit(int(os.environ['CODE']))"])
    assert api.together([sleeps, fails]) == 7
    assert api.together([fails[:1] + ([sys.executable, "-c", "pass"],)] * 2) == 0


@pytest.mark.parametrize(
    "name, accelerator, topology, hosts, per_host",
    [
        ("v5e-64", "v5litepod-64", "8x8", 16, 4),
        ("v5litepod-8", "v5litepod-8", "2x4", 1, 8),
        ("v5p-128", "v5p-128", "4x4x4", 16, 4),
        ("v4-8", "v4-8", "2x2x1", 1, 4),
        ("v6e-256", "v6e-256", "16x16", 64, 4),
    ],
)
def test_slices(name, accelerator, topology, hosts, per_host):
    one = slices.parse(name)
    assert (one.accelerator_type, one.topology, one.hosts, one.per_host) == (accelerator, topology, hosts, per_host)


def test_shapes_of_slices_have_their_chips():
    for generation in slices.GENERATIONS.values():
        for chips, shape in generation.topologies.items():
            assert eval(shape.replace("x", "*")) == chips


def test_storage():
    assert storage.parse("gs://a-bucket/").bucket == "a-bucket"
    assert storage.parse("host-1.x:/a/b") == storage.Storage(host="host-1.x", path="/a/b")
    for text in ("gs://b/folder", "s3://bucket", "/mnt", "h:a", ""):
        with pytest.raises(UserError, match="--storage="):
            storage.parse(text)
    for made in (storage.parse("gs://bucket"), storage.parse("h:/e")):
        assert subprocess.run(["bash", "-n", "-c", made.mounting]).returncode == 0


def test_what_check_prints(capsys, monkeypatch):
    launch.main(["launch", "--check"])
    assert re.search(
        r"cluster +one process\n.*No cluster was recognised; known: variables, ", capsys.readouterr().out, re.S
    )
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:7")
    launch.main(["launch", "--check"])
    said = capsys.readouterr().out
    for line in (
        r"cluster +variables",
        r"processes +4",
        r"this one +jax finds it",
        r"coordinator +localhost:7 \(.*127",
    ):
        assert re.search(line, said), said
    assert re.search(r"JAX_COORDINATOR_ADDRESS +localhost:7$", said, re.MULTILINE)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "no.such.host.invalid:7")
    assert "not known here" in checking.report()


def test_help_lists_the_launchers(capsys):
    launch.main(["launch"])
    said = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", said, re.MULTILINE) for name in api.LAUNCHERS)
