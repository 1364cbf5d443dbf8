"""Prices our TPU decode kernel by its static schedule, beside the time that its keys take to arrive, with no TPU.

    python -m experiments.bench.decode_kernel --chip v5e,v6e --lengths 8192,131072 --out decode_kernel.json

One token of a row attends to all keys of a layer. The real TPU compiler says how many bytes a step of the kernel copies
and how many cycles it computes meanwhile, see tpu_schedule.py; the bandwidth is the published one. Nothing is run.
"""

import dataclasses
import itertools
import sys
import tempfile

import jax

from experiments.bench.harness import kernel_worker, options, record
from experiments.bench.harness.kernel_cases import Case
from experiments.hardware import tpu_schedule
from experiments.settings import console, extras, places
from experiments.settings.models import MODELS
from pallas_kernels import tpu_chips
from pallas_kernels.tpu_chips import CHIPS


@dataclasses.dataclass(frozen=True)
class Result:
    """The figures of one call for one row on one chip.

    Attributes:
      model: a name in MODELS, whose heads these are; length: of the keys.
      block, heads: keys and key heads of a step.
      steps: of one core.
      computed: cycles of one core, its steps' own work among them.
      arriving: cycles in which what the kernel copies arrives, at the chip's bandwidth.
      mb: 2^20 bytes that it copies into vector memory; keys_mb: of the keys and values themselves.
      microseconds: predicted, the longer of both.
      vmem_mb: vector memory that the kernel takes, 2^20 bytes.
    """

    chip: str
    model: str
    length: int
    block: int
    heads: int
    steps: int
    computed: float
    arriving: float
    mb: float
    keys_mb: float
    microseconds: float
    vmem_mb: float


def measure(chip: str, model: str, lengths: list[int], dtype: str = "bfloat16") -> list[Result]:
    """A Result per length; lengths with equal blocks use one compilation. Raises RuntimeError as the compiler does."""
    shape, compiled, results = MODELS[model], {}, []
    head_dim, kv_heads = shape["head_dim"], shape["kv_heads"]
    case = Case("tpu_decode", "forward", head_dim=head_dim, heads=shape["heads"], kv_heads=kv_heads, dtype=dtype)
    for length in lengths:
        with tpu_chips.target(chip):
            blocks, work = case.blocks(length), case.work(length)
        if blocks not in compiled:
            compiled[blocks] = _schedule(chip, case, length)
        kernel, device = compiled[blocks], CHIPS[chip]
        q_info, k_info, q, k, v = kernel.copies
        copied = work.steps * (k_info + k + v) + work.outer * (q_info + q)  # queries stay for all blocks
        cores = min(device.cores, work.outer)  # groups of key heads are what is split over them
        computed = tpu_schedule.cycles(kernel, work, device) * device.cores / cores
        seconds = copied / (device.hbm * 1e9)
        arriving, keys = seconds * device.clock, 2 * length * kv_heads * head_dim * jax.numpy.dtype(dtype).itemsize
        results.append(
            Result(
                chip,
                model,
                length,
                *blocks,
                work.steps // cores,
                computed,
                arriving,
                copied / 2**20,
                keys / 2**20,
                max(computed, arriving) / device.clock * 1e6,
                kernel.vmem / 2**20,
            )
        )
    return results


def _schedule(chip: str, case: Case, length: int) -> tpu_schedule.Kernel:
    with tempfile.TemporaryDirectory() as folder:
        flags = {"LIBTPU_INIT_ARGS": tpu_schedule.compiler_flags(folder)}
        kernel_worker.ask(chip, length, case, flags | tpu_schedule.ENVIRONMENT)
        (kernel,) = [kernel for kernel in tpu_schedule.read(folder) if "attention_decode" in kernel.name]
    return kernel


def check(results: list[Result]) -> list[dict]:
    """What a decode kernel aims at: to be no longer than its keys take to arrive, and to copy little else."""
    slowest = max(r.computed / r.arriving for r in results)
    most = max(r.mb / r.keys_mb for r in results)
    return [
        record.target("cycles computed over cycles of arrival, the worst", slowest, at_most=1),
        record.target("bytes copied over bytes of keys and values, the worst", most, at_most=1.02),
    ]


HEADER = "chip", "heads of", "keys", "a step: keys x heads", "computes, cycles", "its keys arrive in", "MiB", "us"


def rows(results: list[Result]):
    """Yields the rows of the table."""
    for r in results:
        numbers = r.computed, r.arriving, r.mb, r.microseconds
        yield [r.chip, r.model, r.length, f"{r.block} x {r.heads}", *map(console.number, numbers)]


def arguments(argv):
    """The parsed and checked options."""
    parser = options.parser(__doc__, lengths="8192,131072", out=None)
    parser.add_argument("--chip", default="v5e,v5p,v6e,tpu7x", help="with commas (default: %(default)s)")
    parser.add_argument("--model", default="llama3_8b,smollm2_135m", help="with commas (default: %(default)s)")
    args = parser.parse_args(argv)
    args.chip = console.names("--chip", args.chip, CHIPS)
    args.model = console.names("--model", args.model, MODELS)
    args.lengths = console.whole_numbers("--lengths", args.lengths)
    places.check_file("--out", args.out)
    return args


def main(argv=None) -> int:
    jax.config.update("jax_platforms", "cpu")  # this process only counts; workers compile
    args, environment = arguments(argv), record.environment()
    extras.need("pricing", extras.missing("libtpu"))
    results = []
    for chip, model in itertools.product(args.chip, args.model):
        print(f"{chip} {model} ...", file=sys.stderr)
        results += measure(chip, model, args.lengths)
    targets = check(results)
    print(console.table(HEADER, rows(results)) + "\n\n" + record.target_table(targets))
    content = {"environment": environment, "targets": targets, "results": [dataclasses.asdict(r) for r in results]}
    record.write(args.out, {"benchmark": "decode_kernel", "note": "predicted, nothing was run"} | content)
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
