"""What kernels are dispatched by, for GPUs that are not here."""
import pytest

from pallas_kernels import gpu_chips


@pytest.mark.parametrize("name", gpu_chips.CHIPS)
def test_a_program_knows_what_it_is_traced_for(name):
    with gpu_chips.target(name):
        assert gpu_chips.capability() == gpu_chips.CHIPS[name].capability
    assert gpu_chips.capability() is None                               # tests run on CPUs


@pytest.mark.parametrize("capability, bytes", [((9, 0), 232_448), ((8, 9), 101_376), ((7, 5), 65_536), (None, 65_536)])
def test_shared_memory_is_known_or_the_least_there_is(capability, bytes):
    assert gpu_chips.block_shared(capability) == bytes
