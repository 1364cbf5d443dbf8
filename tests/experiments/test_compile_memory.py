"""The memory of a step for devices that are not here."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import compile_memory, hardware
from longctx.errors import UserError
from tests.helpers import NEEDS_CUDA_COMPILER, NEEDS_TPU_COMPILER


def test_targets_that_are_not_known():
    with pytest.raises(UserError, match="'h800x8' is not known.*h100x8"):
        hardware.target("h800x8")
    with pytest.raises(UserError, match="the target is missing.*v5p:2x2x1"):
        compile_memory.main(["compile_memory", "--config=configs/quickstart.py"])


@pytest.mark.slow
@NEEDS_TPU_COMPILER
def test_a_step_for_a_tpu_slice():
    used = compiled("v5e:2x2", "configs/quickstart.py:smoke", "mesh.context=4", "model.remat=offload_layer",
                    "memory.mlp_tiles=2")
    assert used["seq_len"] == 1024 and used["arguments"] > 0 and used["temporaries"] > 0


@pytest.mark.slow
@NEEDS_CUDA_COMPILER
def test_what_is_as_long_as_a_row_is_on_the_hosts():
    """4M tokens on 8 GPUs, so long that what the model itself takes is small."""
    length = 2**22
    used = compiled("h100x8", "configs/longest.py:case=h100x8,smoke", f"batch_tokens={length}",
                    f"stages[0].seq_len={length}", "memory.chunk=65536", "attention.layout=striped(8192)",
                    "memory.offload=('residual','dy','moments','kv')")
    stream_and_dy = 5 * length / 8 * 64 * 2 / hardware.GIB       # inputs of layers 0 and 2, one between, the result, dy
    assert used["host_temporaries"] > stream_and_dy
    assert used["temporaries"] + used["arguments"] < stream_and_dy / 2


def compiled(target: str, config: str, *settings: str) -> dict:
    command = [sys.executable, "-m", "experiments.compile_memory", target, "--config", config,
               *(f"--config.{setting}" for setting in settings)]
    done = subprocess.run(command, cwd=pathlib.Path(__file__).parents[2], env=os.environ, text=True,
                          capture_output=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
