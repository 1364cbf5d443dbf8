"""Static schedules of Pallas TPU kernels: the cycles that the real TPU compiler scheduled, with no TPU.

The compiler's dump holds every kernel as bundles, the instructions of one cycle each, after register allocation and
with the empty bundles that wait for latencies. Bundles do not show waits for memory, bank conflicts and contention. So
a schedule is a lower bound on time, a tight one for kernels that compute much on big blocks.

Branches divide the bundles into regions. A kernel's time is the sum over regions of cycles x executions:

    a region with matmuls                    runs for each pair of blocks of its kind; the caller counts these
    one with many stores, without matmuls    runs when a block of the outer side starts or ends
    any other in the grid's loop             runs at every step
    any other outside of it                  runs once
"""

import collections
import dataclasses
import pathlib
import re

from pallas_kernels.tpu_chips import Chip

UNITS = "MXU", "XLU", "VALU", "VPOP", "EUP", "VLOAD", "FILL", "VSTORE", "SPILL", "SALU"  # columns of the dump
ENVIRONMENT = dict(
    JAX_PLATFORMS="cpu",
    TPU_SKIP_MDS_QUERY="1",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    TF_CPP_MIN_LOG_LEVEL="3",
    TPU_WORKER_HOSTNAMES="localhost",
)
_SCHEDULE, _USE = "packed-bundles-post-ra.txt", "pre-delay_hlo-static-per-bundle-utilization.txt"
_BUNDLE = re.compile(r"^\s*(0x[0-9a-f]+|0)\s+(?:[A-Z]{2})?\s*:")
_BRANCH = re.compile(r"sbr\.rel .*?target bundleno = (\d+)")
_COMMENT = re.compile(r"/\*.*?\*/", re.S)
_MATMUL = re.compile(r"\bvmatmul\.(?:mubr\.|msk\.)*([a-z0-9]+)\.")
_VMEM = re.compile(r"^\s*#allocation\d+ \[.*?space=vmem, size = (0x[0-9a-f]+)", re.M)
_COPY = re.compile(r"dma\.(?:hbm_to_vmem|general) .*?/\*size_in_granules=\*/(\d+)")
_GRANULE = 32  # bytes
_ROWS = {"f32": 8, "bf16": 16}  # rows of the left operand that one matmul instruction streams
_MANY_STORES = 32


@dataclasses.dataclass
class Region:
    """The bundles under one branch, without those of regions inside it.

    Attributes:
      start, end: bundle numbers; end is exclusive.
      loop: whether the branch goes back.
      inside: whether it lies in the grid's loop.
      waits: whether it waits for a copy; no region that starts or ends an outer block does.
      cycles: the number of bundles.
      matmul_rows: rows that are streamed through the matrix units.
      used: instructions per unit, by name in UNITS.
    """

    start: int
    end: int
    loop: bool
    inside: bool = False
    waits: bool = False
    cycles: int = 0
    matmul_rows: int = 0
    used: collections.Counter = dataclasses.field(default_factory=collections.Counter)


@dataclasses.dataclass
class Kernel:
    """The schedule of one kernel.

    Attributes:
      name: of the pallas_call.
      compute: regions with matmuls, in program order.
      step, outer, once: cycles of the other regions: per grid step, per outer block, per launch.
      capacity: instructions per bundle and unit.
      vmem: bytes of scratch and windows.
      copies: bytes of what a grid step copies into VMEM: a block of each operand whose block is not the one before.
    """

    name: str
    compute: list[Region]
    step: int
    outer: int
    once: int
    capacity: dict[str, int]
    vmem: int
    copies: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one launch of a kernel.

    Attributes:
      name: a part of the kernel's name.
      flops: useful FLOPs of all matmuls.
      runs: executions of each compute region, in program order.
      steps: of the grid.
      outer: the number of blocks of the outer side.
    """

    name: str
    flops: float
    runs: tuple[int, ...]
    steps: int
    outer: int


def compiler_flags(folder: str | pathlib.Path) -> str:
    """Flags for LIBTPU_INIT_ARGS, to be set before jax starts, that make the compiler dump into `folder`."""
    return f"--xla_jf_dump_to={folder} --xla_jf_dump_hlo_text=true --xla_jf_dump_llo_text=true"


def read(folder: str | pathlib.Path) -> list[Kernel]:
    """The kernels in a dump, in program order."""
    kernels = {}
    for path in sorted(pathlib.Path(folder).glob(f"*-{_SCHEDULE}")):
        stamp, _, rest = path.name.partition("-")
        name = re.sub(rf"-\d+-{_SCHEDULE}$", "", rest)
        analysis = _only(folder, f"{stamp}-{name}-*-schedule-analysis_{_SCHEDULE}")
        internal = name.startswith(("TLP", "<late-")) or "schedule-analysis" in name
        if not internal and analysis and "tpu_custom_call" in analysis.read_text(errors="replace"):
            kernels[name] = _kernel(name, path, folder, stamp)
    return list(kernels.values())


def cycles(kernel: Kernel, work: Work, chip: Chip) -> float:
    """Cycles of one core for one launch; parallel grid axes are taken to split evenly over cores."""
    total = kernel.once + work.steps * kernel.step + work.outer * kernel.outer
    total += sum(runs * region.cycles for runs, region in zip(work.runs, kernel.compute, strict=False))
    return total / chip.cores


def matmul_cycles(region: Region, chip: Chip) -> float:
    """The least cycles that a region's matmuls occupy the matrix units of a core."""
    return region.matmul_rows * chip.matmul_cycles / 16 / chip.mxus


def floors(region: Region, kernel: Kernel, chip: Chip) -> dict[str, float]:
    """{unit: least cycles} that each unit needs for a region; the largest is a lower bound for the region."""
    bounds = {unit: region.used[unit] / kernel.capacity[unit] for unit in UNITS if unit not in ("MXU", "FILL", "SPILL")}
    return {"MXU": matmul_cycles(region, chip), **bounds}


def _kernel(name, path, folder, stamp):
    bundles = _bundles(path.read_text(errors="replace"))
    use = _only(folder, f"{stamp}-{name}-*-{_USE}").read_text().splitlines()
    capacity = dict(zip(UNITS, map(int, use[2].split()), strict=True))
    rows = [list(map(int, line.split())) for line in use[4:] if line.strip()]
    if len(rows) != len(bundles):
        raise ValueError(
            f"{path.name} has {len(bundles)} bundles, and the table of their units {len(rows)}: "
            "this compiler dumps another format."
        )
    whole, *regions = _regions(bundles)
    _fill([whole, *regions], bundles, rows)
    compute = [r for r in regions if r.matmul_rows]
    other = [r for r in regions if not r.matmul_rows]
    outer = [r for r in other if not r.loop and not r.waits and r.used["VSTORE"] >= _MANY_STORES]
    step = [r for r in other if r not in outer and (r.loop or r.inside)]
    once = [whole, *(r for r in other if r not in outer and r not in step)]
    original = _only(folder, f"{stamp}-{name}-*-original.txt")
    text = original.read_text(errors="replace")
    vmem = sum(int(size, 16) for size in _VMEM.findall(text))
    copies = tuple(_GRANULE * int(granules) for granules in _COPY.findall(text))
    total = lambda regions: sum(r.cycles for r in regions)
    return Kernel(name, compute, total(step), total(outer), total(once), capacity, vmem, copies)


def _only(folder, pattern):
    """The last file that matches a glob pattern whose brackets stand for themselves; None where there is none."""
    paths = sorted(pathlib.Path(folder).glob(re.sub(r"([\[\]])", r"[\1]", pattern)))
    paths = [path for path in paths if "schedule-analysis" in pattern or "schedule-analysis" not in path.name]
    return paths[-1] if paths else None


def _bundles(text):
    """The text of each bundle without its comments."""
    bundles = []
    for line in text.splitlines():
        if _BUNDLE.match(line):
            bundles.append(line[line.index(":") + 1 :])
        elif bundles:
            bundles[-1] += line
    return [_COMMENT.sub("", bundle) for bundle in bundles]


def _regions(bundles):
    """[whole program, region under each branch, ...], outer regions before the regions inside them."""
    regions = []
    for index, bundle in enumerate(bundles):
        for target in map(int, _BRANCH.findall(bundle)):
            regions.append(Region(index + 1, target, False) if target > index else Region(target, index + 1, True))
    regions.sort(key=lambda r: (r.start, -r.end))
    loops = [r for r in regions if r.loop]
    for region in regions:
        others = (loop for loop in loops if loop is not region)
        region.inside = any(loop.start <= region.start and region.end <= loop.end for loop in others)
    return [Region(0, len(bundles), False), *regions]


def _fill(regions, bundles, rows):
    """Counts every bundle in the innermost region around it."""
    owner = [regions[0]] * len(bundles)
    for region in sorted(regions[1:], key=lambda r: r.start - r.end):
        owner[region.start : region.end] = [region] * (min(region.end, len(bundles)) - region.start)
    for region, bundle, row in zip(owner, bundles, rows, strict=True):
        region.cycles += 1
        region.waits |= "dma.done.wait" in bundle
        region.matmul_rows += sum(_ROWS[dtype] for dtype in _MATMUL.findall(bundle))
        region.used.update(dict(zip(UNITS, row, strict=True)))
