"""What kernels are dispatched by, for GPUs that are not here."""
import jax
import pytest

from pallas_kernels import dispatch, gpu_chips
from pallas_kernels.attention import api, chunked
from pallas_kernels.attention.spec import AttentionSpec


@pytest.mark.parametrize("name", gpu_chips.CHIPS)
def test_a_program_knows_what_it_is_traced_for(name):
    with gpu_chips.target(name):
        assert gpu_chips.capability() == gpu_chips.CHIPS[name].capability
    assert gpu_chips.capability() is None                               # tests run on CPUs


def test_amd_has_no_compute_capability(monkeypatch):
    class Device:
        platform, compute_capability = "gpu", "gfx942"
    monkeypatch.setattr(jax, "devices", lambda: [Device])
    assert gpu_chips.capability() is None
    Device.compute_capability = "12.0"
    assert gpu_chips.capability() == (12, 0)


@pytest.mark.parametrize("name", gpu_chips.CHIPS)
@pytest.mark.parametrize("dtype, change, fast", [
    ("bfloat16", {}, True), ("float16", {}, True), ("float32", {}, False), ("bfloat16", dict(soft_cap=30.0), False)])
def test_attention_is_dispatched_by_capability_when_it_is_called(name, dtype, change, fast):
    q, spec = jax.ShapeDtypeStruct((1, 64, 2, 64), dtype), AttentionSpec(**change)
    with gpu_chips.target(name):
        chosen = api.select("auto", q, q, spec)
        if fast:
            assert chosen is api.IMPLEMENTATIONS["cudnn"] and chosen.otherwise(q, q, spec) is not chosen
        else:
            assert chosen is not api.IMPLEMENTATIONS["cudnn"]
            with pytest.raises(NotImplementedError, match="no attention kernel for this call on gpu. cudnn: "):
                api.select("cudnn", q, q, spec)
    assert api.select("auto", q, q, spec) is chunked                    # on a CPU


def test_a_capability_without_an_order_has_that_of_its_platform(monkeypatch):
    class Any:
        def why_not(self, *call):
            return None
    ours, theirs = Any(), Any()
    choose = lambda **how: dispatch.choose("work", {"ours": ours, "theirs": theirs},
                                           {(9, 0): ("ours", "theirs"), "gpu": ("theirs",)}, "auto", "gpu", **how)
    for capability, chosen in (((9, 0), ours), ((8, 9), theirs), (None, theirs)):
        monkeypatch.setattr(gpu_chips, "capability", lambda capability=capability: capability)
        assert choose() is chosen
    monkeypatch.setattr(gpu_chips, "capability", lambda: (9, 0))
    assert choose(but="ours") is theirs
