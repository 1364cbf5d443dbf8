"""Every compiler flag of a launch is one that the installed compilers know: they end the process at any other."""

import os
import subprocess
import sys

import pytest

from experiments.hardware import tpu_schedule
from experiments.launching import flags
from longctx.errors import UserError
from tests.helpers import NEEDS_TPU_COMPILER

ALL = ",".join(flags.GROUPS)
READ_TPU = "from jax.experimental import topologies as t; t.get_topology_desc(platform='tpu', topology_name='v5e:2x2')"
READ_GPU = "import jax; jax.devices()"  # one table has the flags of all backends of XLA


def reads(code: str, variables: dict) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in flags.VARIABLES.values()}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment | variables, capture_output=True, text=True, timeout=120
    )


@NEEDS_TPU_COMPILER
@pytest.mark.slow
def test_libtpu_knows_the_flags_for_tpus():
    environment = {**tpu_schedule.ENVIRONMENT, **flags.variables(ALL, "tpu")}
    done = reads(READ_TPU, environment)
    assert done.returncode == 0, done.stderr[-2000:]
    environment["LIBTPU_INIT_ARGS"] += " --xla_tpu_no_such_flag=true"
    assert "xla_tpu_no_such_flag" in reads(READ_TPU, environment).stderr


def test_xla_knows_the_flags_for_gpus():
    environment = {"JAX_PLATFORMS": "cpu", **flags.variables(ALL, "gpu")}
    assert reads(READ_GPU, environment).returncode == 0
    environment["XLA_FLAGS"] += " --xla_gpu_no_such_flag=true"
    assert "xla_gpu_no_such_flag" in reads(READ_GPU, environment).stderr


def test_groups_are_chosen_by_name(monkeypatch):
    assert flags.variables("none", "gpu") == flags.variables("overlap", "cpu") == {}
    [text] = flags.variables("slices,overlap", "tpu").values()
    assert text.split() == [*flags.GROUPS["slices"]["tpu"], *flags.GROUPS["overlap"]["tpu"]]
    with pytest.raises(UserError, match="--flags='fast' is not known"):
        flags.variables("fast", "tpu")
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    assert flags.added("overlap", "gpu")["XLA_FLAGS"].startswith("--a=1 --xla_gpu")
