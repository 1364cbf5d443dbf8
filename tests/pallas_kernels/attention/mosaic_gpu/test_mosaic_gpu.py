"""Our kernels for Hopper: their results in jax's GPU interpreter, their machine code from the real compiler, no GPU.

The interpreter simulates warpgroups, copies and barriers, in seconds for each block, and says which reads and writes
race. It came with jax 0.11.2; older versions skip.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import gpu_chips, masks, mosaic_gpu
from pallas_kernels.attention import api
from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.mosaic_gpu import kernel as gpu_mosaic
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import TokenInfo
from pallas_kernels.testing import KernelCases, Sizes
from tests.helpers import NEEDS_CUDA_COMPILER, compiled_for_gpu, input_types, nightly, packed, slow

needs_interpreter = pytest.mark.skipif(
    not mosaic_gpu.INTERPRETER, reason=f"jax {jax.__version__} has no interpreter for Mosaic GPU kernels"
)
# instructions of a loop without mask work, by head dim: for a block of 128 keys; of 2**13 / head dim keys; 64 queries
RECORDED = {
    "attention_forward": {64: 431, 128: 472},
    "attention_backward_queries": {64: 374, 128: 259},
    "attention_backward_keys": {64: 262, 128: 291},
}


@pytest.fixture
def no_races(capfd):
    """jax 0.11.2 prints races, later versions raise."""
    yield
    assert "RACE DETECTED" not in capfd.readouterr().out


@needs_interpreter
@pytest.mark.canary
@pytest.mark.usefixtures("no_races")
class TestInterpreted(KernelCases):
    kernel = "mosaic_gpu"
    sizes = Sizes(B=1, T=140, N=2, K=1, H=64)
    dtypes = ("bfloat16",)
    test_shapes = test_blocks_of_its_own_choice = test_scale_and_soft_cap = None  # these are in test_masks
    test_cut_keys = None  # they are cut in test_rows_that_see_nothing
    test_empty_blocks_are_not_visited = None  # of 128 keys, in minutes

    @pytest.mark.parametrize(
        "mask, shape, soft_cap",
        [
            ("causal", dict(T=300, H=64, dtype="bfloat16"), 0.0),
            ("causal & segments & (window(100) | sinks(4))", dict(T=400, H=64, dtype="bfloat16"), 0.0),
            ("segments", dict(B=2, T=150, N=4, K=2, H=128, dtype="float16"), 5.0),
            *slow(
                ("full", dict(T=100, S=600, H=64, N=4, K=1, dtype="float16"), 0.0),
                ("full", dict(T=600, S=100, H=128, N=2, K=2, dtype="bfloat16"), 0.0),
                ("(causal | prefix_lm(40)) & chunked(150) & segments", dict(T=500, H=128, dtype="bfloat16"), 0.0),
            ),
        ],
    )
    def test_masks(self, mask, shape, soft_cap):
        """Several blocks on both sides, FULL ones and PARTIAL ones, and stages that are used again."""
        info = packed(3, shape.get("B", 1), shape["T"], mean=150) if "segments" in mask else None
        p = self.problem(1, infos=info and (info, info), **shape)
        self.check(p, AttentionSpec(masks.parse(mask), scale=0.2, soft_cap=soft_cap))

    def test_rows_that_see_nothing(self):
        """Or keys of one piece alone: forward goes on over both, and gradients of pieces come from global RowStats."""
        T = 140
        segments = jnp.asarray(np.repeat([1, 2, 3, 0], [60, 20, 50, 10])[None], jnp.int32)
        positions = jnp.arange(T, dtype=jnp.int32)[None]
        infos = TokenInfo(positions, segments), TokenInfo(positions, jnp.where(segments == 2, 0, segments))
        pair = self.check_cut(self.problem(infos=infos), (0, 70), (70, T))
        assert np.isneginf(np.asarray(pair.lse)[0, 60:80]).all() and not np.asarray(pair.out)[0, 60:80].any()


@pytest.mark.parametrize(
    "chip, change, words",
    [
        ("h200", {}, None),
        ("h100", dict(H=64, dtype="float16", mask="full"), None),
        ("b200", {}, "compute capability 9.0 (H100, H200), not 10.0"),
        ("a100", {}, "not 8.0"),
        ("h200", dict(dtype="float32"), "float32"),
        ("h200", dict(H=80), "not 80"),
        ("h200", dict(bias=Alibi()), "no bias"),
    ],
)
def test_why_not_says_why(chip, change, words):
    about = dict(H=128, dtype="bfloat16", mask="causal", bias=None) | change
    q = jax.ShapeDtypeStruct((1, 64, 2, about["H"]), about["dtype"])
    spec = AttentionSpec(masks.parse(about["mask"]), bias=about["bias"])
    with gpu_chips.target(chip):
        reason = gpu_mosaic.why_not(input_types(q, q), spec, "gpu")
    assert reason is None if words is None else words in reason


def test_other_platforms():
    q = jax.ShapeDtypeStruct((1, 64, 2, 64), jnp.bfloat16)
    assert "runs on GPU" in gpu_mosaic.why_not(input_types(q, q), AttentionSpec(), "tpu")
    assert (gpu_mosaic.why_not(input_types(q, q), AttentionSpec(), "cpu") is None) == mosaic_gpu.INTERPRETER


def test_hopper_prefers_it_to_plain_jax():
    order = api.PREFERENCE[9, 0]
    assert order.index("mosaic_gpu") < order.index("chunked")


@NEEDS_CUDA_COMPILER
@pytest.mark.parametrize(
    "chip, mask, dtype, head_dim, soft_cap, partial",
    [
        *slow(("h100", "causal & segments", "bfloat16", 64, 0.0, True)),
        *nightly(
            ("h200", "causal", "bfloat16", 128, 0.0, False),
            ("h200", "(causal | prefix_lm(100)) & segments & (window(1024) | sinks(4))", "float16", 128, 0.0, True),
            ("h200", "causal", "bfloat16", 128, 30.0, True),
        ),
    ],
)
def test_machine_code(chip, mask, dtype, head_dim, soft_cap, partial):
    """All matmuls by wgmma, none of which waits for another, copies by TMA, and loops without masks as recorded.

    With a soft cap there is more to compute, and registers may not quite suffice in loops with masks.
    """
    worker = "tests.pallas_kernels.attention.mosaic_gpu.compile_mosaic_gpu"
    found, _ = compiled_for_gpu(chip, worker, mask, dtype, head_dim, soft_cap, partial, timeout=200)
    kernels = {kernel.name.removesuffix("_mosaic_gpu_kernel"): kernel for kernel in found if kernel.wgmma}
    assert set(kernels) == set(RECORDED)
    for name, kernel in kernels.items():
        free = min(loop.instructions for loop in kernel.loops if loop.matmuls)
        assert kernel.mma_sync == 0 and kernel.tma > 0 and not kernel.serialized
        assert kernel.shared <= gpu_chips.CHIPS[chip].block_shared
        if not soft_cap:
            assert kernel.spills == 0 and free <= 1.05 * RECORDED[name][head_dim]
