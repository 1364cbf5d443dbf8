"""Strategies with the TPU kernels inside, through the real TPU compiler: a program that sends what it should."""

import pytest

from tests.helpers import NEEDS_TPU_COMPILER, compiled_for_tpu, nightly, slow

WORKER = "tests.longctx.context_parallel.compile_for_tpu"
HOPS, HEADS, BLOCKS = "collective-permute", "all-to-all", "ragged-all-to-all"


@NEEDS_TPU_COMPILER
@pytest.mark.parametrize(
    "topology, strategy, layout, collective",
    [*slow(("v5e:2x4", "ring", "zigzag", HOPS)), *nightly(("v6e:2x4", "ulysses", "contiguous", HEADS))],
)
def test_eight_chips(topology, strategy, layout, collective):
    forward, both = map(str.split, compiled_for_tpu(WORKER, topology, strategy, layout, timeout=500))
    assert int(both[0]) > int(forward[0]) >= 1
    for _, sent, expected, *kinds in (forward, both):
        assert float(sent) <= float(expected) and collective in kinds  # the same tokens may be sent but once


@pytest.mark.slow
@NEEDS_TPU_COMPILER
def test_keys_by_need_are_sent_ragged():
    """A kernel in the loop over rounds, and one for what the last brings."""
    forward, both = map(str.split, compiled_for_tpu(WORKER, "v5e:2x4", "dispatch", "zigzag", timeout=500))
    assert (forward[0], both[0]) == ("2", "4") and BLOCKS in forward and BLOCKS in both
