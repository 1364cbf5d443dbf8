"""Chooses the block sizes of our TPU attention kernels by their static schedules, with no TPU; see bench.kernels.

    python -m experiments.bench.tune_kernels --chip v6e --op forward --head-dim 64,128

Prints every candidate's predicted TFLOP/s under a causal mask, then the best ones as entries for SIZES in
pallas_kernels/attention/tpu/sizes.py. A candidate takes the compiler a minute or two.
"""

import itertools
import sys

import jax

from experiments.bench import kernels as bench_kernels
from experiments.bench.harness import options
from experiments.bench.harness.flops import MATMULS
from experiments.bench.harness.kernel_cases import Case
from experiments.settings import console, extras
from pallas_kernels.attention.tpu.sizes import Blocks
from pallas_kernels.tpu_chips import CHIPS

CANDIDATES = {
    "forward": [
        Blocks(2048, 2048, 256, 512, 512),
        Blocks(2048, 2048, 512, 512, 512),
        Blocks(2048, 2048, 256, 512, 256),
        Blocks(1024, 1024, 256, 512, 512),
        Blocks(1024, 1024, 512, 512, 512),
    ],
    "backward": [
        Blocks(2048, 2048, 256, 1024),
        Blocks(1024, 1024, 256, 1024),
        Blocks(2048, 2048, 512, 1024),
        Blocks(1024, 1024, 512, 512),
    ],
}


def ranked(chip: str, op: str, head_dim: int, lengths: list[int]) -> list[tuple]:
    """(mean TFLOP/s, sizes, TFLOP/s by length) of every candidate that compiles, best first; prints each at once."""
    candidates = []
    for sizes in CANDIDATES[op]:
        results = bench_kernels.measure(chip, Case("longctx", op, head_dim=head_dim, sizes=tuple(sizes)), lengths)
        note = next((r.note for r in results if r.note), "")
        tflops = [r.tflops for r in results]
        result = note or " ".join(map(console.number, tflops))
        print(f"{chip} {op} head dim {head_dim} {'/'.join(map(str, sizes))}: {result}", flush=True)
        if not note:
            candidates.append((sum(tflops) / len(tflops), sizes, tflops))
    return sorted(candidates, reverse=True)


def arguments(argv):
    """The parsed and checked options."""
    parser = options.parser(__doc__, lengths="8192,32768")
    parser.add_argument("--chip", default=",".join(CHIPS), help="generations, with commas (default: %(default)s)")
    parser.add_argument("--op", default=",".join(MATMULS), help="with commas (default: %(default)s)")
    parser.add_argument("--head-dim", default="64,128,256", help="with commas (default: %(default)s)")
    args = parser.parse_args(argv)
    args.chip = console.names("--chip", args.chip, CHIPS)
    args.op = console.names("--op", args.op, MATMULS)
    args.head_dim = console.whole_numbers("--head-dim", args.head_dim)
    args.lengths = console.whole_numbers("--lengths", args.lengths)
    return args


def main(argv=None) -> int:
    jax.config.update("jax_platforms", "cpu")  # this process only counts; workers compile
    args = arguments(argv)
    extras.need("tuning", extras.missing("libtpu"))
    lines = []
    for op, chip, head_dim in itertools.product(args.op, args.chip, args.head_dim):
        best = next(iter(ranked(chip, op, head_dim, args.lengths)), None)
        if best:
            figures = ", ".join(f"{console.number(x)} at {n}" for x, n in zip(best[2], args.lengths, strict=True))
            lines.append(f'    ("{op}", "{chip}", {head_dim}): {best[1]},    # {figures}')
    print("\nSIZES = {\n" + "\n".join(lines) + "\n}")
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
