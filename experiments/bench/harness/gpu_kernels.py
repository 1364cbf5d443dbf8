"""The GPU side of bench.kernels: machine code of attention kernels, and their speed where the machine has a GPU.

gpu_schedule.py explains the figures of a compiled kernel. cuDNN compiles its kernels on a GPU, so that they have no
figures here. A kernel is compiled once, at the first length; other lengths differ only in the grid.

With few queries, as in decoding, a kernel reads much and computes little: beside its machine code stands the least time
in which the memory gives out the keys and values, and in which a processor issues the instructions.
"""

import dataclasses
import glob
import tempfile

from experiments.bench.harness import kernel_worker, record
from experiments.bench.harness.kernel_cases import Case, missing
from experiments.hardware import gpu_schedule
from experiments.hardware.gpu_schedule import Kernel, Loop
from experiments.settings import console
from pallas_kernels import gpu_chips
from pallas_kernels.attention.triton import decode
from pallas_kernels.gpu_chips import CHIPS

NOT_RUN = "compiled and interpreted, not run"
OURS = "mosaic_gpu", "jax_triton", "triton_decode"  # the kernels whose machine code has targets
_DEVICES = "/dev/nvidia[0-9]*"
_XLAS = "gemm_fusion"
_UNIT = 1024  # tensor cycles of a 64 x 128 block of scores forward, head dim 128


@dataclasses.dataclass(frozen=True)
class Result:
    """The figures of one case on one chip.

    Attributes:
      kernels: the program's kernels that hold matmuls, without XLA's own.
      floors: of few queries, least microseconds of a call, by length and unit: memory, issue.
      measured: TFLOP/s on this machine's GPU, by length; empty where it has no such GPU.
      note: the reason why there are no numbers.
    """

    chip: str
    case: Case
    kernels: tuple[Kernel, ...] = ()
    compile_s: float = 0.0
    temp_mb: float = 0.0
    floors: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    measured: dict[int, float] = dataclasses.field(default_factory=dict)
    note: str = ""


def measure(chip: str, case: Case, lengths: list[int]) -> Result:
    """The Result of a case, compiled for `chip` and, where this machine has one, timed at every length."""
    reason = missing(case.kernel) or gpu_schedule.missing()
    if reason:
        return Result(chip, case, note=reason)
    try:
        with tempfile.TemporaryDirectory() as folder:
            reply = kernel_worker.ask(chip, lengths[0], case, gpu_schedule.environment(folder))
            kernels = gpu_schedule.read(folder, CHIPS[chip])
        timed = lengths if glob.glob(_DEVICES) and not case.queries else ()  # gpu_check times decoding, from a cache
        times = {n: kernel_worker.measured(n, case, chip, "cuda") for n in timed}
    except RuntimeError as error:
        return Result(chip, case, note=str(error))
    kernels = tuple(kernel for kernel in kernels if _matmuls(kernel))
    return Result(
        chip,
        case,
        kernels,
        **reply,
        floors={n: floors(chip, case, n, kernels) for n in lengths if case.queries},
        measured={n: x for n, x in times.items() if x},
    )


def _matmuls(kernel):
    return kernel.wgmma + kernel.mma_sync + kernel.tcgen05 if not kernel.name.startswith(_XLAS) else 0


def floors(chip: str, case: Case, length: int, kernels: tuple[Kernel, ...]) -> dict[str, float]:
    """Least microseconds of a call with few queries, by unit.

    memory: all keys and values are read once. issue: each scheduler issues an instruction of the loop without masks in
    each cycle; known of triton_decode.
    """
    device = CHIPS[chip]
    with gpu_chips.target(chip):
        x = case.call(length)[1][0]
        sizes, programs = decode.choose(x, 0), decode.programs(x)
    least = {"memory": 2e6 * x.k.size * x.k.dtype.itemsize / device.bandwidth}
    loops = [loop.instructions for kernel in kernels for loop in kernel.loops if loop.matmuls]
    if case.kernel == "triton_decode" and loops:
        warps = sizes.warps / 4  # of each scheduler
        cycles = programs * -(-length // sizes.keys) * min(loops) * warps / device.processors
        least["issue"] = cycles / device.clock / 1e3
    return least


HEADER = (
    "chip",
    "op",
    "mask",
    "H",
    "kernel",
    "of the program",
    "registers",
    "spills",
    "shared",
    "threads",
    "blocks",
    "limiter",
    "wgmma",
    "mma.sync",
    "tcgen05",
    "TMA",
    "loop: instructions",
    "a unit",
    "stalls",
    "tensor %",
)


def rows(results: list[Result]):
    """Yields the rows of the machine code's table, one per kernel and loop with matmuls.

    The column "a unit" holds instructions per _UNIT tensor cycles.
    """
    for r in results:
        head = [r.chip, r.case.op, r.case.mask, r.case.head_dim, r.case.kernel]
        if r.note or not r.kernels:
            yield [*head, r.note or "none that is compiled here", *["-"] * (len(HEADER) - len(head) - 1)]
        for kernel in r.kernels:
            figures = [
                kernel.name,
                kernel.registers,
                kernel.spills,
                kernel.shared,
                kernel.threads,
                kernel.blocks,
                kernel.limiter,
                kernel.wgmma,
                kernel.mma_sync,
                kernel.tcgen05,
                kernel.tma,
            ]
            for loop in [loop for loop in kernel.loops if loop.matmuls] or [None]:
                yield [*head, *figures, *_loop_cells(kernel, loop)]


def _loop_cells(kernel, loop):
    if loop is None:
        return ["-"] * 4
    busy = f"{100 * gpu_schedule.busy(kernel, loop):.0f}" if loop.tensor else "-"
    return [loop.instructions, console.number(_per_unit(loop)), loop.stalls, busy]


def _per_unit(loop: Loop) -> float | None:
    """Instructions in the time that tensor cores need at least for a forward block of 64 x 128 scores, head dim 128."""
    return loop.instructions * _UNIT / loop.tensor if loop.tensor else None


FLOORS = "chip", "kernel", "queries", "tokens", "memory, us", "issue, us"


def floor_rows(results: list[Result]):
    """Yields the rows of the table of least times, one per case with few queries and length."""
    for r in results:
        for length, least in r.floors.items():
            units = (console.number(least.get(unit)) for unit in ("memory", "issue"))
            yield [r.chip, r.case.kernel, r.case.queries, length, *units]


TIMES = "chip", "op", "mask", "H", "length", "kernel", "TFLOP/s", "of cuDNN's"


def times(results: list[Result]):
    """Yields the rows of the table of measured speeds, one per case and length."""
    cudnn = _cudnn(results)
    for r in results:
        for length, tflops in r.measured.items():
            ratio = tflops / cudnn[_problem(r), length] if (_problem(r), length) in cudnn else None
            yield [
                r.chip,
                r.case.op,
                r.case.mask,
                r.case.head_dim,
                length,
                r.case.kernel,
                console.number(tflops),
                console.number(ratio),
            ]


def _cudnn(results):
    """{(problem, length): TFLOP/s of cuDNN} in these results."""
    return {(_problem(r), n): x for r in results if r.case.kernel == "cudnn" for n, x in r.measured.items()}


def _problem(result):
    return result.chip, result.case.op, result.case.mask, result.case.head_dim, result.case.dtype


def check(results: list[Result], lengths: list[int]) -> list[dict]:
    """The targets of our kernels, for machine code and, on a GPU, for speed, beside the results."""
    targets = []
    for r in results:
        if r.case.kernel in OURS and r.kernels:
            targets += _lint(r)
    results = [r for r in results if not r.case.queries]
    return targets + [
        _fastest(results, chip, op, length)
        for chip in dict.fromkeys(r.chip for r in results)
        for op in ("forward", "backward")
        for length in lengths
    ]


def _lint(result):
    """The targets of a kernel's machine code."""
    chip, case, kernels = result.chip, result.case, result.kernels
    target = lambda what, value, at_most: record.target(
        f"{chip} {case.kernel} {case.op} {case.mask}, head dim {case.head_dim}: {what}", value, at_most=at_most
    )
    targets = [
        target("bytes spilled", sum(k.spills for k in kernels), 0),
        target("shared memory", max(k.shared for k in kernels), CHIPS[chip].block_shared),
    ]
    for length, least in result.floors.items():
        if "issue" in least:
            targets.append(target(f"{length} tokens, issue / memory", least["issue"] / least["memory"], 0.5))
    if CHIPS[chip].capability == (9, 0) and not case.queries:  # wgmma wants 64 of them
        targets.append(target("mma.sync instead of wgmma", sum(k.mma_sync for k in kernels), 0))
    if case.kernel == "mosaic_gpu" and case.op == "forward" and case.head_dim == 128:
        units = [_per_unit(loop) for kernel in kernels for loop in kernel.loops if loop.tensor]
        targets.append(target("instructions for a free block of 64 x 128", min(units), 480))
    return targets


def _fastest(results, chip, op, length):
    """The target that the best of OURS is as fast as cuDNN in this run, causal, head dim 128."""
    problem = chip, op, "causal", 128, "bfloat16"
    ours = [
        r.measured[length] for r in results if r.case.kernel in OURS and _problem(r) == problem and length in r.measured
    ]
    cudnn = _cudnn(results).get((problem, length))
    return record.target(
        f"{chip} {op} causal, head dim 128, {length} tokens: best of ours over cuDNN",
        max(ours) / cudnn if ours and cudnn else None,
        at_least=1.0,
        unknown=NOT_RUN,
    )
