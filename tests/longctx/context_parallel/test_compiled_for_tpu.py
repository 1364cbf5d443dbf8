"""Strategies with the TPU kernels inside, through the real TPU compiler: a program comes out, and what is in it."""
import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
HOPS, HEADS = "collective-permute", "all-to-all"


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="the TPU compiler is not installed")
@pytest.mark.parametrize("topology, strategy, layout, collective", [
    ("v5e:2x4", "ring", "zigzag", HOPS), ("v6e:2x4", "ulysses", "contiguous", HEADS)])
def test_eight_chips(topology, strategy, layout, collective):
    worker = subprocess.run(
        [sys.executable, "-m", "tests.longctx.context_parallel.compile_for_tpu", topology, strategy, layout],
        cwd=ROOT, env=os.environ, text=True, capture_output=True, timeout=500)
    assert worker.returncode == 0, worker.stderr[-2000:]
    forward, both = (line.split() for line in worker.stdout.splitlines())
    assert int(both[1]) > int(forward[1]) >= 1
    assert collective in forward and collective in both
