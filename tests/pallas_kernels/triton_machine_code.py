"""What Triton's and NVIDIA's compilers make of the Triton kernels, held to what every one of them has to be."""

from experiments.hardware.gpu_schedule import Kernel
from pallas_kernels.gpu_chips import CHIPS
from tests.helpers import compiled_for_gpu

_STATIC = 16  # bytes of shared memory that the assembler may add


def triton_kernels_for(chip: str, *what, unit: str = "") -> dict[str, Kernel]:
    """The kernels that compile_triton.py compiles, by name: none spills, none takes more shared memory than the rule
    says, and all matrix instructions are of one `unit`, by default the architecture's best."""
    unit = unit or {(8, 0): "mma_sync", (9, 0): "wgmma", (10, 0): "tcgen05"}[CHIPS[chip].capability]
    found, lines = compiled_for_gpu(chip, "tests.pallas_kernels.attention.triton.compile_triton", *what, timeout=280)
    expected = {name: int(size) for name, size in map(str.split, lines)}
    kernels = {kernel.name: kernel for kernel in found if kernel.name in expected}
    for name, kernel in kernels.items():
        assert kernel.spills == 0 and kernel.shared - _STATIC <= expected[name] <= CHIPS[chip].block_shared, kernel
        assert [name for name in ("wgmma", "mma_sync", "tcgen05") if getattr(kernel, name)] == [unit], kernel
    return kernels
