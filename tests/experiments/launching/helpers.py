"""The dry run of a launch, its parts, and a config of any number of devices."""

import re
import shlex

from experiments import launch
from tests.helpers import ROOT

TPU = ["tpu", "--name", "run1", "--type", "v5e-64", "--zone", "z", "--storage", "10.0.0.2:/share"]
GKE = ["gke", "--name", "run1", "--type", "v5p-16", "--image", "r/i:1", "--storage", "gs://bucket"]
XPK = ["xpk", "--name", "run1", "--type", "v5e-16", "--image", "r/i:1", "--cluster", "c"]
SLURM = ["slurm", "--name", "run1", "--nodes", "2"]
SKYPILOT = ["skypilot", "--name", "run1", "--type", "H100:8", "--nodes", "2", "--storage", "gs://bucket"]


def config(context: int, *more: str) -> list[str]:
    """Arguments of experiments.train for a mesh of that many devices."""
    return ["--", "--config", "configs/quickstart.py", f"--config.mesh.context={context}", *more]


def dry(capsys, monkeypatch, argv, settings) -> tuple[dict[str, str], list[list[str]]]:
    """({file: text}, commands) that a launch would write and run."""
    monkeypatch.chdir(ROOT)
    launch.main(["launch", *argv, "--dry-run", *settings])
    said = capsys.readouterr().out
    text, *commands = re.split(r"^\$ ", said, flags=re.MULTILINE)
    parts = re.split(r"^# ---- (\S+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True)), [shlex.split(line) for line in commands]
