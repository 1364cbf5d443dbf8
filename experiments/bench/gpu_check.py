"""What there is to know of the attention kernels on a GPU, in eight minutes: are they right, how fast, at what sizes.

    python -m experiments.bench.gpu_check --prepare h200 --out DIR        # on any machine with the compilers, .[aot]
    python -m experiments.bench.gpu_check --rehearse --out DIR            # anywhere: the same in miniature, on the CPU
    python -m experiments.bench.gpu_check --out DIR                       # on the GPU's machine, from a checkout

The GPU's machine needs jax, flax and optax, and nothing else of the project's requirements: without them a case says
what it lacks and the others go on. For the routes of --routes, by default Triton's, which may be lacking there,
--prepare leaves compiled programs in DIR/programs, and says how large they are and what to run there.

Asks in the order in which answers matter, and writes each to DIR/gpu_check.json as it comes; the same command goes on
where it was stopped. Every route has a process, which may crash or hang: that costs the case alone that it is at. What
is asked, and by when, as predicted of 16 cores from compilations without a GPU (5 to 10 s a program); none is measured:

    start of all processes, side by side                                             20 s
    right: causal; cut in two as by a ring, with global lse; cross-entropy           1 min 30 s
    TFLOP/s at 8k, then at 16k, forward and backward, beside cuDNN by jax.nn         3 min
    training steps of a model of 0.55e9 parameters on 16k tokens                     4 min 30 s
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
from experiments.bench.harness.gpu_cases import PEER, Answers, Case, export
from experiments.settings import console
from longctx.errors import UserError
from longctx.memory.sizes import readable

ROUTES = "cudnn", "mosaic_gpu", "jax_triton", "chunked"
LOSSES = "chunked", "jax_triton"  # those that have a cross-entropy
KNOWN = *ROUTES, "reference"
PROGRAMS = "programs"
REHEARSED = "h200"  # the chip that a rehearsal lowers programs for, where a CPU cannot run them
TOKENS, WIDTH = 16384, 2048  # timed: as FlashAttention's benchmarks (arXiv 2407.08608): heads = WIDTH / size
BLOCKS = {"jax_triton": (64, 128), "chunked": (256, 1024)}  # beside their own choice; the others have no choice
SMALLER = {"right": 4, "cross_entropy": 4, "time": 64, "step": 128}  # lengths of a rehearsal, divided by this


def cases(routes: list[str]) -> list[list[Case]]:
    """All of them in groups of one kind, what matters most first."""

    def timed(length, **how):
        size = how.get("head_dim", 128)
        shape = {"rows": max(TOKENS // length, 1), "length": length, "heads": WIDTH // size}
        return [Case("time", route, op, **shape, **how) for route in [PEER, *routes] for op in ("forward", "backward")]

    each = lambda *problems: [Case("right", route, **how) for how in problems for route in routes]
    blocks = [
        Case("time", route, op, rows=1, length=TOKENS, heads=WIDTH // 128, block=block)
        for route in routes
        for block in BLOCKS.get(route, ())
        for op in ("forward", "backward")
    ]
    asked = [
        each({"kv_heads": 2}, {"kv_heads": 2, "pieces": 2}),
        [Case("cross_entropy", route) for route in LOSSES if route in routes],
        timed(8192),
        timed(16384),
        [Case("step", route, rows=1, length=TOKENS) for route in ("auto", *routes) if route in ("auto", "mosaic_gpu")],
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
    return [group for group in asked if group]


def rehearsed(case: Case) -> Case:
    """A case at a size that a CPU, or an interpreter of a GPU's kernels, answers in seconds."""
    small = {} if case.kind == "step" else {"rows": 1, "heads": 2, "kv_heads": min(case.kv_heads, 1)}
    return dataclasses.replace(case, length=case.length // SMALLER[case.kind], **small)


def table(asked: list[Case], answers: dict) -> str:
    """A line for each case that was answered; of timed ones the ratio to PEER at the same problem."""
    lines = [
        (
            case.name,
            said(answers[case.name]),
            console.number(by_peer(case, answers)),
            console.number(answers[case.name].get("took_s")),
        )
        for case in asked
        if case.name in answers
    ]
    return console.table(("case", "answer", "by cuDNN", "took s"), lines)


def by_peer(case: Case, answers: dict) -> float | None:
    """TFLOP/s of a timed case by those of PEER in the same run."""
    peer = dataclasses.replace(case, route=PEER, block=0).name
    found, peers = (answers.get(name, {}).get("tflops") for name in (case.name, peer))
    return found / peers if found and peers else None


def summary(asked: list[Case], answers: dict, routes: list[str]) -> str:
    """A line of Markdown for each route: how many of its answers are right, and TFLOP/s by length and op."""
    columns = [(length, op) for length in (8192, 16384) for op in ("forward", "backward")]
    lines = [
        "| route | right | " + " | ".join(f"{length // 1024}k {op}" for length, op in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for route in [*routes, PEER]:
        own = [case for case in asked if case.route == route]
        verdicts = [is_right(answers[case.name]) for case in own if "error" in answers.get(case.name, {})]
        times = [
            next((case for case in own if case.name == f"time {route} causal length={length} {op}"), None)
            for length, op in columns
        ]
        cells = [f"{sum(verdicts)} of {len(verdicts)}" if verdicts else "-", *(_cell(case, answers) for case in times)]
        lines.append(f"| `{route}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(case, answers):
    found = answers.get(case.name, {}) if case else {}
    if "tflops" not in found:
        return "-"
    ratio = "" if case.route == PEER else f" ({console.number(by_peer(case, answers))})"
    return console.number(found["tflops"]) + ratio


def is_right(found: dict) -> bool:
    return max(found["error"].values()) <= found["limit"]


def said(found: dict) -> str:
    """An answer in words."""
    if "tflops" in found:
        return f"{console.number(found['tflops'])} TFLOP/s"
    if "error" in found:
        worst = max(found["error"], key=found["error"].get)
        return (
            f"{'right' if is_right(found) else 'WRONG'}: {worst} off by {found['error'][worst]:.1e}, "
            f"limit {found['limit']:.1e}"
        )
    if "tokens_per_second" in found:
        peak = f", {readable(found['peak_bytes'])} at most" if found["peak_bytes"] else ""
        return f"{found['tokens_per_second']:,.0f} tokens/s{peak}, losses " + " ".join(
            console.number(loss) for loss in found["losses"]
        )
    return next(f"{word}: {found[word]}" for word in ("lowered", "cannot", "failed") if word in found)


class _Handlers(dict):
    """{"wanted": a method of Answers, "case"} as JSON -> the function that does it."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def __missing__(self, line):
        request = json.loads(line)
        return lambda: getattr(self.answers, request["wanted"])(Case(**request["case"]))


def _build(task):
    import jax

    device = jax.devices()[0]
    if not task["chip"] and device.platform != "gpu":
        raise UserError(f"jax finds only {device.device_kind}")  # it goes on with the next of JAX_PLATFORMS
    about = {"kind": device.device_kind, "platform": device.platform, "jax": jax.__version__}
    return {"device": about}, _Handlers(Answers(pathlib.Path(task["programs"]), task["chip"]))


def environment(platform: str) -> dict[str, str]:
    """Variables for processes that share one GPU, with the CPU beside it for what the answers are compared with."""
    ours = {"JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_TRACEBACK_FILTERING": "off"}
    return ours | ({"CUDA_ROOT": root} if "CUDA_ROOT" not in os.environ and (root := cuda_root()) else {})


def cuda_root() -> str | None:
    """The folder of CUDA, where jax must be told: where pip's packages hold no assembler, jax 0.11.2 has kernels look
    for it, and for libdevice, in a folder called None."""
    holds_ptxas = lambda root: root and pathlib.Path(root, "bin/ptxas").exists()
    pip = importlib.util.find_spec("nvidia")
    if any(holds_ptxas(f"{folder}/cu13") for folder in (pip.submodule_search_locations if pip else ())):
        return None
    return next(filter(holds_ptxas, (os.environ.get("CUDA_HOME"), "/usr/local/cuda")), None)


def main(argv=None) -> int:
    parser = options.parser(__doc__.splitlines()[0], worker=None)
    parser.add_argument("--minutes", type=float, default=8, help="(default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", default="runs/gpu_check", help="(default: %(default)s)")
    parser.add_argument("--programs", metavar="DIR", help=f"what --prepare has made (default: {PROGRAMS} in --out)")
    parser.add_argument("--routes", help=f"with commas (default: {','.join(ROUTES)})")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prepare", metavar="CHIP", help="make programs for it, ask nothing; needs no GPU")
    what.add_argument("--rehearse", action="store_true", help="ask the CPU, in miniature, and look at the programs")
    chosen = parser.parse_args(argv)
    if chosen.worker is not None:
        return sides.serve(_build, chosen.worker)
    folder = pathlib.Path(chosen.out)
    programs = pathlib.Path(chosen.programs) if chosen.programs else folder / PROGRAMS
    folder.mkdir(parents=True, exist_ok=True)
    return prepare(chosen, programs) if chosen.prepare else run(chosen, folder, programs)


def prepare(chosen, programs: pathlib.Path) -> int:
    """Exports the programs of some routes for a chip; says which cannot be had, and how large they all are."""
    from pallas_kernels import gpu_chips

    (chip,) = console.names("--prepare", chosen.prepare, gpu_chips.CHIPS)
    routes = console.names("--routes", chosen.routes or "jax_triton", KNOWN)
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
        f"python -m experiments.bench.gpu_check --programs {programs} --out {chosen.out}"
    )
    return 0


def run(chosen, folder: pathlib.Path, programs: pathlib.Path) -> int:
    """Asks, within the minutes, and shows. Raises UserError where there is no GPU, or none that answers."""
    until = time.monotonic() + 60 * chosen.minutes
    routes = console.names("--routes", chosen.routes or ",".join(ROUTES), KNOWN)
    groups = cases(routes)
    if chosen.rehearse:
        print(_carried(programs))
        groups = [list(map(rehearsed, group)) for group in groups]
    path = folder / ("rehearsal.json" if chosen.rehearse else "gpu_check.json")
    saved = json.loads(path.read_text()) if path.exists() else {"environment": record.environment(), "answers": {}}
    save = lambda: path.write_text(json.dumps(saved, indent=1) + "\n")
    show = lambda case, found: print(f"{case.name}: {said(found)}", file=sys.stderr, flush=True)
    patience = 4 if chosen.rehearse else 1  # interpreted kernels are slow
    _ask(groups, Asker(saved, until, _starting(chosen, programs), save, show, patience))
    save()
    asked = sum(groups, [])
    print(table(asked, saved["answers"]))
    if not chosen.rehearse:
        print(f"\n{summary(asked, saved['answers'], routes)}\n")
    print(f"{sum(case.name in saved['answers'] for case in asked)} of {len(asked)} cases answered; saved: {path}")
    return 0


def _starting(chosen, programs):
    where = environment("cpu" if chosen.rehearse else "cuda,cpu")
    task = {"programs": str(programs.absolute()), "chip": REHEARSED if chosen.rehearse else None}
    return lambda limit: sides.Worker("experiments.bench.gpu_check", task, where, limit)


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


def _carried(programs):
    """How many exported programs this machine's jax can read."""
    import jax

    paths = list(programs.glob("*.bin"))
    if paths and not importlib.util.find_spec("flatbuffers"):
        return f"{programs}: {len(paths)} programs cannot be read, as flatbuffers is not installed"
    read = [jax.export.deserialize(bytearray(path.read_bytes())) for path in paths]
    return f"{programs}: {sum('cuda' in one.platforms for one in read)} of {len(paths)} programs can be read for CUDA"


if __name__ == "__main__":
    sys.exit(options.command(main))
