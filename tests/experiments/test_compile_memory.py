"""The memory of a step for devices that are not here."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import compile_memory
from longctx.errors import UserError
from tests.helpers import NEEDS_TPU_COMPILER


def test_targets_that_are_not_known():
    with pytest.raises(UserError, match="'h800' is not known.*h100"):
        compile_memory.devices_of("h800x8")
    with pytest.raises(UserError, match="the target is missing.*v5p:2x2x1"):
        compile_memory.main(["compile_memory", "--config=configs/quickstart.py"])


@pytest.mark.slow
@NEEDS_TPU_COMPILER
def test_a_step_for_a_tpu_slice():
    command = [sys.executable, "-m", "experiments.compile_memory", "v5e:2x2", "--config", "configs/quickstart.py:smoke",
               "--config.mesh.context=4", "--config.model.remat=offload_layer", "--config.memory.mlp_tiles=2"]
    done = subprocess.run(command, cwd=pathlib.Path(__file__).parents[2], env=os.environ, text=True,
                          capture_output=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    used = json.loads(done.stdout.splitlines()[-1])
    assert used["seq_len"] == 1024 and used["arguments"] > 0 and used["temporaries"] > 0
