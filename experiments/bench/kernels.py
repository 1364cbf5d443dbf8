"""Compares our attention kernels for TPUs and GPUs with public ones, by their schedules and machine code: no device.

    python -m experiments.bench.kernels --chip v5e,v6e --out kernels.json --picture kernels.png
    python -m experiments.bench.kernels --chip h200
    python -m experiments.bench.kernels --chip h200 --queries 1 --lengths 131072

Every kernel is compiled by the real compiler in a process of its own. tpu_schedule.py explains what a TPU's schedule
means: TFLOP/s are predicted, not measured. A GPU's machine code gives no times, see harness/gpu_kernels.py. Where this
machine has a device of a requested kind, all kernels are also run on it.
"""

import dataclasses
import glob
import itertools
import sys
import tempfile

import jax

from experiments.bench.harness import gpu_kernels, kernel_worker, options, record
from experiments.bench.harness.flops import MATMULS
from experiments.bench.harness.kernel_cases import EVERY, GPU_KERNELS, KERNELS, Case, Ours, missing
from experiments.hardware import tpu_schedule
from experiments.settings import console, extras, places
from longctx.errors import UserError
from longctx.evals import drawing as figures
from pallas_kernels import gpu_chips, masks, tpu_chips
from pallas_kernels.tpu_chips import CHIPS

_DEVICES = "/dev/accel*", "/dev/vfio/[0-9]*"  # files of a machine with TPUs
MASKS = "causal", "full"
FEW = "triton_decode"  # the kernel that is compared where there are few queries
WHOLE = 2048  # lengths are multiples of this: public kernels take whole blocks only


@dataclasses.dataclass(frozen=True)
class Result:
    """The figures of one case on one TPU at one length.

    Attributes:
      tflops: predicted, of useful work; None where the compiler or the public kernel is missing.
      regions: for each compute region: cycles, runs, mxu (the fraction of cycles that matrix units work), spills,
        floors.
      step, outer: cycles of a grid step, and of starting and ending an outer block.
      measured: TFLOP/s on this machine's TPU.
      note: the reason why there are no numbers.
    """

    chip: str
    case: Case
    length: int
    blocks: tuple = ()
    tflops: float | None = None
    regions: tuple = ()
    step: int = 0
    outer: int = 0
    vmem_mb: float = 0.0
    compile_s: float = 0.0
    measured: float | None = None
    note: str = ""


# chip, op, mask, head dim, length, the best public kernel's TFLOP/s, and the target for ours
TARGETS = [
    ("v5e", "forward", "causal", 128, 8192, 144, 170),
    ("v5e", "forward", "causal", 128, 32768, 174, 182),
    ("v6e", "forward", "full", 128, 8192, 356, 410),
    ("v6e", "forward", "full", 128, 32768, 365, 440),
    ("v6e", "forward", "causal", 128, 8192, 274, 350),
    ("v6e", "forward", "causal", 128, 32768, 337, 400),
    ("v6e", "backward", "causal", 128, 8192, 360, 420),
    ("v6e", "backward", "causal", 128, 32768, 400, 460),
    ("v6e", "forward", "full", 64, 8192, 159, 210),
    ("v5e", "backward", "causal", 128, 8192, 167, 172),
    ("v5e", "backward", "causal", 128, 32768, 185, 187),
]
FULL_USE = [("v5e", "forward", "full", 128, 32768, 0.96), ("v5p", "forward", "full", 128, 32768, 0.96)]
DECODING = {"heads": 32, "kv_heads": 8}  # of --queries: Llama 3's with 8B parameters
EMPTY_RATIO = 0.30  # target for the time with 3/4 of the blocks EMPTY over the time of all blocks


def measure(chip: str, case: Case, lengths: list[int]) -> list[Result]:
    """A Result per length; lengths with equal blocks use one compilation."""
    reason = missing(case.kernel) or extras.missing("libtpu")
    if reason:
        return [Result(chip, case, length, note=reason) for length in lengths]
    compiled, results = {}, []
    for length in lengths:
        with tpu_chips.target(chip):
            blocks, work = case.blocks(length), case.work(length)
        try:
            if blocks not in compiled:
                compiled[blocks] = _schedule(chip, case, length, work.name)
        except RuntimeError as error:
            results.append(Result(chip, case, length, blocks, note=str(error)))
            continue
        results.append(_result(chip, case, length, work, *compiled[blocks]))
    return results


def _result(chip, case, length, work, kernel, compile_s):
    """The Result of a scheduled kernel that does `work`."""
    device = CHIPS[chip]
    with tpu_chips.target(chip):
        blocks = case.blocks(length)
    seconds = tpu_schedule.cycles(kernel, work, device) / device.clock
    regions = tuple(
        {
            "cycles": region.cycles,
            "runs": runs,
            "mxu": tpu_schedule.matmul_cycles(region, device) / region.cycles,
            "spills": region.used["SPILL"],
            "floors": {unit: round(x) for unit, x in tpu_schedule.floors(region, kernel, device).items()},
        }
        for region, runs in zip(kernel.compute, work.runs, strict=False)
    )
    return Result(
        chip,
        case,
        length,
        blocks,
        work.flops / seconds / 1e12,
        regions,
        kernel.step,
        kernel.outer,
        kernel.vmem / 2**20,
        compile_s,
        _measured(chip, case, length),
    )


def _schedule(chip, case, length, name):
    """(the scheduled kernel whose name contains `name`, seconds of compilation)."""
    with tempfile.TemporaryDirectory() as folder:
        reply = kernel_worker.ask(
            chip, length, case, {"LIBTPU_INIT_ARGS": tpu_schedule.compiler_flags(folder), **tpu_schedule.ENVIRONMENT}
        )
        kernels = [kernel for kernel in tpu_schedule.read(folder) if name in kernel.name]
    if len(kernels) != 1:
        raise RuntimeError(f"the program holds {len(kernels)} kernels called *{name}*, and should hold one")
    return kernels[0], reply["compile_s"]


def _measured(chip, case, length):
    """TFLOP/s on this machine's own TPU; None where it has no TPU of this generation."""
    if not any(glob.glob(device) for device in _DEVICES):
        return None
    return kernel_worker.measured(length, case, chip, "tpu")


def rows(results: list[Result]):
    """Yields the rows of the table, one per compute region of each kernel."""
    for r in results:
        head = [r.chip, r.case.op, r.case.mask, r.case.head_dim, r.length, r.case.kernel]
        if r.note:
            yield [*head, "-", "-", "-", "-", "-", "-", "-", r.note]
        for i, region in enumerate(r.regions):
            tflops = [console.number(r.tflops), console.number(r.measured)] if i == 0 else ["-", "-"]
            yield [
                *head,
                *tflops,
                region["cycles"],
                region["runs"],
                f"{100 * region['mxu']:.1f}",
                region["spills"],
                f"{r.step}+{r.outer}",
                "/".join(map(str, r.blocks)),
            ]


HEADER = (
    "chip",
    "op",
    "mask",
    "H",
    "length",
    "kernel",
    "TFLOP/s predicted",
    "measured",
    "cycles",
    "runs",
    "MXU busy %",
    "spills",
    "step+outer",
    "blocks",
)


def check(results: list[Result]) -> list[dict]:
    """TARGETS and FULL_USE beside the results of our kernel, for the chips in the results."""
    ours = {
        (r.chip, r.case.op, r.case.mask, r.case.head_dim, r.length): r for r in results if r.case.kernel == "longctx"
    }
    chips, targets = {r.chip for r in results}, []
    for *key, public, bound in TARGETS:
        if key[0] in chips:
            result = ours.get(tuple(key))
            what = "{} {} {}, head dim {}, {} tokens: TFLOP/s (best public {})".format(*key, public)
            targets.append(record.target(what, result and result.tflops, at_least=bound))
    for *key, bound in FULL_USE:
        if key[0] in chips:
            result = ours.get(tuple(key))
            what = "{} {} {}, head dim {}, {} tokens: MXU busy in region".format(*key)
            mxu = result and result.regions and result.regions[0]["mxu"]
            targets.append(record.target(what, mxu, at_least=bound))
    return targets


def empty_ratio(chip: str, length: int) -> float | None:
    """Predicted time of a row of four documents, where 3/4 of the pairs are EMPTY, over the time of one document."""
    time = []
    for count in (4, 1):
        case = Case("longctx", "forward", "segments", documents=count)
        (result,) = measure(chip, case, [length])
        if result.tflops is None:
            return None
        time.append(case.flops(length) / result.tflops)
    return time[0] / time[1]


@figures.style
def picture(results: list[Result]):
    """Bars of every kernel's predicted TFLOP/s, a panel per chip and a group per problem."""
    from matplotlib.figure import Figure

    results = [r for r in results if r.tflops]
    chips, kernels = list(dict.fromkeys(r.chip for r in results)), list(dict.fromkeys(r.case.kernel for r in results))
    figure = Figure(figsize=(figures.SIZE[0] * 1.6, 2.6 * max(len(chips), 1)), layout="constrained")
    for axes, chip in zip(figure.subplots(max(len(chips), 1), squeeze=False)[:, 0], chips, strict=False):
        panel = [r for r in results if r.chip == chip]
        problems = list(dict.fromkeys(_problem(r) for r in panel))
        width = 0.8 / len(kernels)
        for i, kernel in enumerate(kernels):
            tflops = {_problem(r): r.tflops for r in panel if r.case.kernel == kernel}
            x = [problems.index(problem) + width * (i - (len(kernels) - 1) / 2) for problem in tflops]
            bars = axes.bar(x, list(tflops.values()), width, label=kernel, color=figures.PALETTE[i])
            for text in axes.bar_label(bars, fmt="%.0f", fontsize=6, padding=1):
                # legible where the line of the peak runs through it
                text.set_bbox(dict(facecolor=figures.CARD, edgecolor="none", pad=0.5))
        axes.axhline(CHIPS[chip].tflops, color=figures.MUTED, linestyle=(0, (3, 2)), linewidth=1, label="peak")
        axes.set_xticks(range(len(problems)), problems, fontsize=7)
        axes.set_xlim(-0.5, len(problems) - 0.5)
        axes.margins(y=0.1)
        axes.grid(False, axis="x")
        axes.set(title=f"{chip}: predicted TFLOP/s", ylabel="TFLOP/s")
    if chips:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), ncols=len(kernels) + 1, loc="outside upper right")
    return figure


def _problem(result: Result) -> str:
    case = result.case
    return f"{case.op} {case.mask}\n{result.length // 1024}k, H {case.head_dim}"


def arguments(argv):
    """The parsed and checked options."""
    parser = options.parser(__doc__, lengths="8192,32768", dtype="bfloat16", out=None)
    parser.add_argument("--chip", default="v5e,v5p,v6e,tpu7x", help="TPUs or GPUs, with commas (default: %(default)s)")
    parser.add_argument("--op", default="forward,backward", help="with commas (default: %(default)s)")
    parser.add_argument(
        "--mask", default=",".join(MASKS), help="masks, with commas; public kernels take causal and full only"
    )
    parser.add_argument(
        "--queries", type=int, default=0, help="on GPUs: of a row's end, as in decoding (default: as many as keys)"
    )
    parser.add_argument("--head-dim", default="128", help="with commas (default: %(default)s)")
    parser.add_argument("--kernel", help=f"of {', '.join(EVERY)} (default: all that a chip can run)")
    parser.add_argument("--picture", metavar="FILE.png", help="draw predicted TFLOP/s of TPUs")
    args = parser.parse_args(argv)
    args.chip = console.names("--chip", args.chip, CHIPS | gpu_chips.CHIPS)
    args.op = console.names("--op", args.op, MATMULS)
    args.kernel = args.kernel and console.names("--kernel", args.kernel, EVERY)
    args.mask = args.mask.split(",")
    for text in args.mask:
        try:
            masks.parse(text)
        except ValueError as error:
            raise UserError(str(error)) from None
    args.lengths = console.whole_numbers("--lengths", args.lengths)
    if any(length % WHOLE for length in args.lengths):
        raise UserError(
            f"--lengths={','.join(map(str, args.lengths))} must be multiples of {WHOLE}, "
            "the largest block of the kernels compared."
        )
    _check_queries(args)
    places.check_file("--out", args.out)
    places.check_file("--picture", args.picture)
    if args.picture and not any(chip in CHIPS for chip in args.chip):
        raise UserError(
            f"--picture={args.picture} shows predicted TFLOP/s, which there are of TPUs alone: {', '.join(CHIPS)}."
        )
    return args


def _check_queries(args):
    """Raises UserError for a number of queries that the other options do not go with; leaves the forward alone."""
    if args.queries and (args.queries < 0 or any(chip in CHIPS for chip in args.chip)):
        raise UserError(
            f"--queries={args.queries} with --chip={','.join(args.chip)} must be above 0, and of GPUs alone: "
            f"{', '.join(gpu_chips.CHIPS)}."
        )
    args.op = ["forward"] if args.queries else args.op


def cases(args, kernels: dict) -> list[Case]:
    """The requested cases of `kernels`."""
    sizes = console.whole_numbers("--head-dim", args.head_dim)
    named = args.kernel or [name for name in kernels if (name == FEW) == (args.queries > 0)]
    every = itertools.product(options.dtypes(args.dtype), sizes, args.op, args.mask, named)
    decoding = {"queries": args.queries, **DECODING} if args.queries else {}
    return [
        Case(kernel, op, mask, head_dim, dtype=dtype, **decoding)
        for dtype, head_dim, op, mask, kernel in every
        if kernel in kernels and _takes(kernels[kernel], op, mask, args.queries)
    ]


def _takes(kernel, op, mask, queries) -> bool:
    """Whether one of KERNELS or GPU_KERNELS can be asked for such a case."""
    return isinstance(kernel, Ours) or not queries and mask in MASKS and op in kernel.names


def on_tpus(args, chips: list[str]) -> tuple[list[Result], list[dict]]:
    """(results, targets) for TPUs; prints the table."""
    results = []
    for chip, case in itertools.product(chips, cases(args, KERNELS)):
        print(f"{chip} {case.kernel} {case.op} {case.mask} ...", file=sys.stderr)
        results += measure(chip, case, args.lengths)
    targets = check(results)
    if "longctx" in (args.kernel or KERNELS) and "forward" in args.op:
        what = f"{chips[0]} forward, 3/4 of the blocks EMPTY: time over all blocks"
        targets.append(record.target(what, empty_ratio(chips[0], args.lengths[0]), at_most=EMPTY_RATIO))
    print(console.table(HEADER, rows(results)))
    return results, targets


def on_gpus(args, chips: list[str]) -> tuple[list[gpu_kernels.Result], list[dict]]:
    """(results, targets) for GPUs; prints the table of machine code and, where there is a GPU, of speeds."""
    results = []
    for chip, case in itertools.product(chips, cases(args, GPU_KERNELS)):
        print(f"{chip} {case.kernel} {case.op} {case.mask} ...", file=sys.stderr)
        results.append(gpu_kernels.measure(chip, case, args.lengths))
    print(console.table(gpu_kernels.HEADER, gpu_kernels.rows(results)))
    if args.queries:
        print("\n" + console.table(gpu_kernels.FLOORS, gpu_kernels.floor_rows(results)))
    if any(r.measured for r in results):
        print("\n" + console.table(gpu_kernels.TIMES, gpu_kernels.times(results)))
    return results, gpu_kernels.check(results, args.lengths)


def main(argv=None) -> int:
    jax.config.update("jax_platforms", "cpu")  # this process only counts; workers compile and run
    args, environment = arguments(argv), record.environment()
    tpus, gpus = ([chip for chip in args.chip if chip in chips] for chips in (CHIPS, gpu_chips.CHIPS))
    results, targets = on_tpus(args, tpus) if tpus else ([], [])
    if args.picture:
        picture(results).savefig(args.picture, dpi=150)
    if gpus:
        compiled, more = on_gpus(args, gpus)
        results, targets = results + compiled, targets + more
    print("\n" + record.target_table(targets))
    record.write(
        args.out, {"environment": environment, "targets": targets, "results": [dataclasses.asdict(r) for r in results]}
    )
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
