"""What kernels are dispatched by, for GPUs that are not here."""
import types

import jax
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


@pytest.mark.parametrize("said, want", [("8.9", (8, 9)), ("gfx942", None)])
@pytest.mark.parametrize("meshed", [False, True])
def test_a_gpu_that_is_here_says_it_itself(said, want, meshed, monkeypatch):
    here = types.SimpleNamespace(platform="gpu", device_kind="of no name", compute_capability=said)
    monkeypatch.setattr(jax, "devices", lambda: [here])
    target = jax.sharding.AbstractDevice(here.device_kind, 1, "gpu") if meshed else None
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=target)):
        assert gpu_chips.capability() == want
