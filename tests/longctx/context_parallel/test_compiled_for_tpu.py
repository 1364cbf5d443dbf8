"""Strategies with the TPU kernels inside, through the real TPU compiler: a program that sends what it should."""
import pytest

from tests.helpers import NEEDS_TPU_COMPILER, compiled_for_tpu

HOPS, HEADS = "collective-permute", "all-to-all"


@pytest.mark.slow
@NEEDS_TPU_COMPILER
@pytest.mark.parametrize("topology, strategy, layout, collective", [
    ("v5e:2x4", "ring", "zigzag", HOPS), ("v6e:2x4", "ulysses", "contiguous", HEADS)])
def test_eight_chips(topology, strategy, layout, collective):
    worker = "tests.longctx.context_parallel.compile_for_tpu"
    forward, both = map(str.split, compiled_for_tpu(worker, topology, strategy, layout, timeout=500))
    assert int(both[0]) > int(forward[0]) >= 1
    for _, sent, expected, *kinds in (forward, both):
        assert float(sent) <= float(expected) and collective in kinds       # the same tokens may be sent but once
