"""What kernels are dispatched by, for GPUs that are not here."""

import types

import jax
import pytest

from pallas_kernels import gpu_chips, select
from pallas_kernels.attention import api, chunked
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.testing import input_types


@pytest.mark.parametrize("name", gpu_chips.CHIPS)
def test_a_program_knows_what_it_is_traced_for(name):
    with gpu_chips.target(name):
        assert gpu_chips.capability() == gpu_chips.CHIPS[name].capability
    assert gpu_chips.capability() is None  # tests run on CPUs


@pytest.mark.parametrize("name", gpu_chips.CHIPS)
def test_processors_are_those_of_the_target_or_of_the_gpu_that_is_here(name, monkeypatch):
    with gpu_chips.target(name):
        assert gpu_chips.processors() == gpu_chips.CHIPS[name].processors
    assert gpu_chips.processors() == 108  # tests run on CPUs
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(core_count=7)])
    assert gpu_chips.processors() == 7


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


@pytest.mark.parametrize("name", gpu_chips.CHIPS)
@pytest.mark.parametrize(
    "dtype, change, fast",
    [("bfloat16", {}, True), ("float16", {}, True), ("float32", {}, False), ("bfloat16", dict(soft_cap=30.0), False)],
)
def test_attention_is_dispatched_by_capability_when_it_is_called(name, dtype, change, fast):
    q, spec = jax.ShapeDtypeStruct((1, 64, 2, 64), dtype), AttentionSpec(**change)
    x = input_types(q, q)
    with gpu_chips.target(name):
        chosen = api.select("auto", x, spec)
        if fast:
            assert chosen is api.IMPLEMENTATIONS["cudnn"] and chosen.otherwise(x, spec) is not chosen
        else:
            assert chosen is not api.IMPLEMENTATIONS["cudnn"]
            with pytest.raises(NotImplementedError, match="no attention kernel for this call on gpu. cudnn: "):
                api.select("cudnn", x, spec)
    assert api.select("auto", x, spec) is chunked  # on a CPU


def test_a_capability_without_an_order_has_that_of_its_platform(monkeypatch):
    class Any:
        def why_not(self, *call):
            return None

    ours, theirs = Any(), Any()
    choose = lambda **how: select.choose(
        "work", {"ours": ours, "theirs": theirs}, {(9, 0): ("ours", "theirs"), "gpu": ("theirs",)}, "auto", "gpu", **how
    )
    for capability, chosen in (((9, 0), ours), ((8, 9), theirs), (None, theirs)):
        monkeypatch.setattr(gpu_chips, "capability", lambda capability=capability: capability)
        assert choose() is chosen
    monkeypatch.setattr(gpu_chips, "capability", lambda: (9, 0))
    assert choose(but="ours") is theirs
