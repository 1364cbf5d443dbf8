"""Checks and times the attention kernels on a GPU in eight minutes, the most important cases first.

    python -m experiments.bench.gpu_check --prepare h200 --out DIR        # on any machine with the compilers, .[aot]
    python -m experiments.bench.gpu_check --rehearse --out DIR            # anywhere: in miniature, on the CPU
    python -m experiments.bench.gpu_check --out DIR                       # on the GPU's machine, from a checkout

The GPU's machine needs jax, flax and optax, and nothing else of the project's requirements: a case that lacks a package
says so, and the others go on. For the routes in --routes, by default Triton's, whose packages may be missing there,
--prepare leaves compiled programs in DIR/programs, and says how large they are and what to run there.

Cases run in the order of their importance, and each answer is written to DIR/gpu_check.json at once; the same command
continues where it was stopped. Every route has a process of its own: a crash or a hang costs one case. A decoding step
is timed by the rate at which it reads the cache, beside what the GPU's memory can do. The cases, and the time at which
they should be answered, predicted for 16 cores from compilations without a GPU (5 to 10 s a program) and not measured:

    start of all processes, side by side                                             20 s
    right: causal; in two shards as in a ring, with global lse; cross-entropy        1 min 30 s
    TFLOP/s at 8k, then at 16k, forward and backward, beside cuDNN by jax.nn         3 min
    training steps of a model of 0.55e9 parameters on 16k tokens                     4 min 30 s
    decoding: right over a cache in no order; bytes/s of 4 rows of 131072 tokens     5 min
    right: packed rows, other masks, head dim 64 with a soft cap, float16           6 min
    TFLOP/s at 32k, full masks, head dim 64, other blocks, as time allows           8 min
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import sys
import time

from experiments.bench.harness import options, record, sides
from experiments.bench.harness.gpu_asking import Asker
from experiments.bench.harness.gpu_cases import PEER, Answers, Case, export, register_tuples
from experiments.settings import console
from longctx.errors import UserError
from longctx.json_files import read_object
from longctx.memory.sizes import readable

ROUTES = "cudnn", "mosaic_gpu", "jax_triton", "chunked"
DECODERS = ("triton_decode",)  # routes that take a few queries alone
LOSSES = "chunked", "jax_triton"  # routes that have a cross-entropy
EXPORTED = "jax_triton", "triton_decode"  # routes whose packages the GPU's machine may lack
KNOWN = *ROUTES, *DECODERS, "reference"
PROGRAMS = "programs"
REHEARSED = "h200"  # the chip for which a rehearsal lowers programs that a CPU cannot run
TOKENS, WIDTH = 16384, 2048  # of timed cases, as in FlashAttention's benchmarks (arXiv 2407.08608): heads = WIDTH / H
BLOCKS = {"jax_triton": (64, 128), "chunked": (256, 1024)}  # timed beside a route's own choice
CACHE = 131072  # slots of a timed cache, for each of 4 rows: 2 GiB of keys and values
SMALLER = {
    "right": 4,
    "cross_entropy": 4,
    "time": 64,
    "step": 128,
    "decode": 8,
    "decode_time": 256,
}  # by kind, the divisor of a rehearsal's lengths


def cases(routes: list[str]) -> list[list[Case]]:
    """The cases of some routes in groups of one kind, the most important first."""
    decoding, routes = decoding_cases(routes), [route for route in routes if route not in DECODERS]

    def timed(length, **fields):
        shape = {"rows": max(TOKENS // length, 1), "length": length, "heads": WIDTH // fields.get("head_dim", 128)}
        ops = "forward", "backward"
        return [Case("time", route, op, **shape, **fields) for route in [PEER, *routes] for op in ops]

    each = lambda *problems: [Case("right", route, **fields) for fields in problems for route in routes]
    blocks = [
        Case("time", route, op, rows=1, length=TOKENS, heads=WIDTH // 128, block=block)
        for route in routes
        for block in BLOCKS.get(route, ())
        for op in ("forward", "backward")
    ]
    groups = [
        each({"kv_heads": 2}, {"kv_heads": 2, "pieces": 2}),
        [Case("cross_entropy", route) for route in LOSSES if route in routes],
        timed(8192),
        timed(16384),
        [Case("step", route, rows=1, length=TOKENS) for route in ("auto", *routes) if route in ("auto", "mosaic_gpu")],
        *decoding,
        each(
            {"mask": "packed", "length": 500, "kv_heads": 2},
            {"mask": "full"},
            {"mask": "window"},
            {"mask": "sinks", "length": 500},
            {"head_dim": 64, "soft_cap": 5.0},
            {"dtype": "float16"},
        ),
        timed(32768),
        timed(16384, mask="full"),
        timed(16384, head_dim=64),
        blocks,
    ]
    return [group for group in groups if group]


def decoding_cases(routes: list[str]) -> list[list[Case]]:
    """The cases of decoding steps, checked and timed; other routes are timed beside those of DECODERS."""
    checked, timed = {"rows": 3, "kv_heads": 2}, {"rows": 4, "length": CACHE, "heads": 32, "kv_heads": 8}
    shapes = {"length": 1000, "queries": 1}, {"length": 1024, "queries": 4, "head_dim": 64, "soft_cap": 5.0}
    return [
        [Case("decode", route, **checked, **shape) for shape in shapes for route in routes if route in DECODERS],
        [
            Case("decode_time", route, queries=1, **timed)
            for route in (*DECODERS, "jax_triton", "chunked")
            if route in routes
        ],
    ]


def rehearsed(case: Case) -> Case:
    """A case at a size that a CPU, or an interpreter of GPU kernels, answers in seconds."""
    small = {} if case.kind == "step" else {"rows": 1, "heads": 2, "kv_heads": min(case.kv_heads, 1)}
    return dataclasses.replace(case, length=case.length // SMALLER[case.kind], **small)


def table(cases: list[Case], answers: dict) -> str:
    """A table with a line per case that has an answer; timed ones show the ratio to PEER at the same problem."""
    lines = [
        (
            case.name,
            in_words(answers[case.name]),
            console.number(over_peer(case, answers)),
            console.number(answers[case.name].get("took_s")),
        )
        for case in cases
        if case.name in answers
    ]
    return console.table(("case", "answer", "by cuDNN", "took s"), lines)


def over_peer(case: Case, answers: dict) -> float | None:
    """TFLOP/s of a timed case divided by PEER's in the same run; None where either is missing."""
    peer = dataclasses.replace(case, route=PEER, block=0).name
    ours, theirs = (answers.get(name, {}).get("tflops") for name in (case.name, peer))
    return ours / theirs if ours and theirs else None


def summary(cases: list[Case], answers: dict, routes: list[str]) -> str:
    """A Markdown table with a line per route: the number of right answers, and TFLOP/s by length and op."""
    columns = [(length, op) for length in (8192, 16384) for op in ("forward", "backward")]
    lines = [
        "| route | right | " + " | ".join(f"{length // 1024}k {op}" for length, op in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for route in [*routes, PEER]:
        own = [case for case in cases if case.route == route]
        verdicts = [is_right(answers[case.name]) for case in own if "error" in answers.get(case.name, {})]
        times = [
            next((case for case in own if case.name == f"time {route} causal length={length} {op}"), None)
            for length, op in columns
        ]
        cells = [f"{sum(verdicts)} of {len(verdicts)}" if verdicts else "-", *(_cell(case, answers) for case in times)]
        lines.append(f"| `{route}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(case, answers):
    answer = answers.get(case.name, {}) if case else {}
    if "tflops" not in answer:
        return "-"
    ratio = "" if case.route == PEER else f" ({console.number(over_peer(case, answers))})"
    return console.number(answer["tflops"]) + ratio


def is_right(answer: dict) -> bool:
    """Whether the largest error of a check is within its limit."""
    return max(answer["error"].values()) <= answer["limit"]


def in_words(answer: dict) -> str:
    """An answer as a line of text."""
    if "tflops" in answer:
        return f"{console.number(answer['tflops'])} TFLOP/s"
    if "bytes_per_second" in answer:
        part = answer["of_bandwidth"]
        of_memory = f", {console.number(part)} of the memory's bandwidth" if part else ""
        return f"{readable(answer['bytes_per_second'])}/s of keys and values{of_memory}"
    if "error" in answer:
        worst = max(answer["error"], key=answer["error"].get)
        return (
            f"{'right' if is_right(answer) else 'WRONG'}: {worst} off by {answer['error'][worst]:.1e}, "
            f"limit {answer['limit']:.1e}"
        )
    if "tokens_per_second" in answer:
        peak = f", {readable(answer['peak_bytes'])} at most" if answer["peak_bytes"] else ""
        losses = " ".join(console.number(loss) for loss in answer["losses"])
        return f"{answer['tokens_per_second']:,.0f} tokens/s{peak}, losses {losses}"
    return next(f"{word}: {answer[word]}" for word in ("lowered", "cannot", "failed") if word in answer)


class _Handlers(dict):
    """Handlers for sides.serve, by request: JSON of {"method": of Answers, "case": fields of Case}."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def __missing__(self, line):
        request = json.loads(line)
        return lambda: getattr(self.answers, request["method"])(Case(**request["case"]))


def _build(task):
    import jax

    device = jax.devices()[0]
    if not task["chip"] and device.platform != "gpu":
        raise UserError(f"jax finds only {device.device_kind}")  # it goes on with the next of JAX_PLATFORMS
    description = {"kind": device.device_kind, "platform": device.platform, "jax": jax.__version__}
    return {"device": description}, _Handlers(Answers(pathlib.Path(task["programs"]), task["chip"]))


def environment(platform: str) -> dict[str, str]:
    """Environment variables for processes that share one GPU; platform: as in JAX_PLATFORMS."""
    shared = {"JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_TRACEBACK_FILTERING": "off"}
    return shared | ({"CUDA_ROOT": root} if "CUDA_ROOT" not in os.environ and (root := cuda_root()) else {})


def cuda_root() -> str | None:
    """The folder of CUDA, or None where jax finds it by itself.

    Where pip's packages hold no assembler, jax 0.11.2 has kernels look for it, and for libdevice, in a folder called
    None.
    """
    holds_ptxas = lambda root: root and pathlib.Path(root, "bin/ptxas").exists()
    pip = importlib.util.find_spec("nvidia")
    if any(holds_ptxas(f"{folder}/cu13") for folder in (pip.submodule_search_locations if pip else ())):
        return None
    return next(filter(holds_ptxas, (os.environ.get("CUDA_HOME"), "/usr/local/cuda")), None)


def main(argv=None) -> int:
    parser = options.parser(__doc__, worker=None)
    parser.add_argument("--minutes", type=float, default=8, help="time for all cases (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", default="runs/gpu_check", help="(default: %(default)s)")
    parser.add_argument("--programs", metavar="DIR", help=f"programs of --prepare (default: {PROGRAMS} in --out)")
    parser.add_argument("--routes", help=f"kernels, with commas (default: {','.join(ROUTES + DECODERS)})")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--prepare", metavar="CHIP", help="export programs for a chip and stop; needs no GPU")
    mode.add_argument("--rehearse", action="store_true", help="run in miniature on the CPU, and read the programs")
    args = parser.parse_args(argv)
    if args.worker is not None:
        return sides.serve(_build, args.worker)
    folder = pathlib.Path(args.out)
    programs = pathlib.Path(args.programs) if args.programs else folder / PROGRAMS
    folder.mkdir(parents=True, exist_ok=True)
    return prepare(args, programs) if args.prepare else run(args, folder, programs)


def prepare(args, programs: pathlib.Path) -> int:
    """Exports the programs of some routes for a chip; prints which cannot be exported, and the size of all."""
    from pallas_kernels import gpu_chips

    (chip,) = console.names("--prepare", args.prepare, gpu_chips.CHIPS)
    routes = console.names("--routes", args.routes or ",".join(EXPORTED), KNOWN)
    for old in programs.glob("*.bin"):
        old.unlink()
    for case in sum(cases(routes), []):
        if case.kind != "step" and case.route != PEER:
            try:
                export(case, programs, chip)
                print(case.name, flush=True)
            except NotImplementedError as error:
                print(f"{case.name}: {error}", flush=True)
    made = list(programs.glob("*.bin"))
    print(
        f"{programs}: {len(made)} programs, {readable(sum(path.stat().st_size for path in made))}, for GPUs of the "
        f"compute capability of {chip}. Take the folder to the GPU's machine, and there, in the checkout, run\n"
        f"python -m experiments.bench.gpu_check --programs {programs} --out {args.out}"
    )
    return 0


def run(args, folder: pathlib.Path, programs: pathlib.Path) -> int:
    """Answers the cases within --minutes and prints the tables. Raises UserError where no GPU answers."""
    until = time.monotonic() + 60 * args.minutes
    routes = console.names("--routes", args.routes or ",".join(ROUTES + DECODERS), KNOWN)
    groups = cases(routes)
    if args.rehearse:
        print(_readable_programs(programs))
        groups = [list(map(rehearsed, group)) for group in groups]
    path = folder / ("rehearsal.json" if args.rehearse else "gpu_check.json")
    saved = read_object(path) if path.exists() else {"environment": record.environment(), "answers": {}}
    save = lambda: path.write_text(json.dumps(saved, indent=1) + "\n")
    report = lambda case, answer: print(f"{case.name}: {in_words(answer)}", file=sys.stderr, flush=True)
    patience = 4 if args.rehearse else 1  # interpreted kernels are slow
    _ask(groups, Asker(saved, until, _starter(args, programs), save, report, patience))
    save()
    every, answers = sum(groups, []), saved["answers"]
    print(table(every, answers))
    if not args.rehearse:
        print(f"\n{summary(every, answers, routes)}\n")
    print(f"{sum(case.name in answers for case in every)} of {len(every)} cases answered; saved: {path}")
    return 0


def _starter(args, programs):
    """A function of a time limit that starts a Worker."""
    variables = environment("cpu" if args.rehearse else "cuda,cpu")
    task = {"programs": str(programs.absolute()), "chip": REHEARSED if args.rehearse else None}
    return lambda limit: sides.Worker("experiments.bench.gpu_check", task, variables, limit)


def _ask(groups, asker):
    try:
        asker.start(dict.fromkeys(case.route for group in groups for case in group))
        for group in groups:
            asker.ask(group)
    except sides.WorkerFailed as error:
        raise UserError(
            f"there is no GPU that jax can use here ({error}); python -m experiments.bench.kernels --chip "
            "h200 says what is known without one."
        ) from error
    finally:
        asker.close()


def _readable_programs(programs):
    """A line that counts the exported programs that this machine's jax can read."""
    import jax

    paths = list(programs.glob("*.bin"))
    if paths and not importlib.util.find_spec("flatbuffers"):
        return f"{programs}: {len(paths)} programs cannot be read, as flatbuffers is not installed"
    register_tuples()
    read = [jax.export.deserialize(bytearray(path.read_bytes())) for path in paths]
    count = sum("cuda" in exported.platforms for exported in read)
    return f"{programs}: {count} of {len(paths)} programs can be read for CUDA"


if __name__ == "__main__":
    sys.exit(options.command(main))
