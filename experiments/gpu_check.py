"""What there is to know of the attention kernels on a GPU, in twenty minutes: are they right, how fast, at what sizes.

    python -m experiments.gpu_check --minutes 20 --out DIR

Asks in the order in which answers matter, and writes each to DIR/gpu_check.json as it comes; the same command goes on
where it was stopped. First whether every route is right on a small problem, alone and with the keys cut in two as by a
ring; then TFLOP/s at 8k, 16k, 32k, other masks and head sizes, a few block sizes, and a training step of a model of
1.2e9 parameters. Every case is done in a process that may crash or hang: that costs its own answer alone. Prints a
table, with each time beside cuDNN's in the same run.

    python -m experiments.gpu_check --prepare h200 --out DIR

does not ask: on any machine with the compilers (pip install -e '.[aot]') it leaves the programs of --routes, by default
the Triton kernels', in DIR/programs, for a GPU's machine that has no Triton and finds them there.
"""
import argparse
import json
import pathlib
import sys
import time

from experiments import benchmark, benchmark_worker
from experiments.gpu_cases import Case, answer
from longctx.errors import UserError

ROUTES = "cudnn", "mosaic", "jax_triton", "chunked"
KNOWN = *ROUTES, "reference"
PEER, PROGRAMS = "cudnn", "programs"
BLOCKS = {"jax_triton": (64, 128), "chunked": (256, 1024)}      # beside their own choice; the others have no choice
LIMIT = 150                             # seconds for a case, and for a process to start


def cases(routes: list[str], scale: int = 1) -> list[Case]:
    """All of them, what matters most first. scale: lengths of what is timed are divided by it."""
    long = lambda thousands: 1024 * thousands // scale
    each = lambda kind, **how: [Case(kind, route, **how) for route in routes]
    both = lambda **how: [case for op in ("forward", "backward") for case in each("time", op=op, **how)]
    asked = [each("right"), both(length=long(8)), each("right", pieces=2), both(length=long(16)), both(length=long(32))]
    asked += [each("right", mask=mask, length=length, key_heads=2) for mask, length in (
        ("packed", 500), ("full", 512), ("window", 512), ("sinks", 500))]
    asked += [each("right", head_size=64, soft_cap=5.0, length=500), each("right", dtype="float16")]
    asked += [each("step", length=long(32))]
    asked += [both(length=long(n), **how) for how in ({"mask": "full"}, {"head_size": 64}) for n in (16, 8)]
    asked += [both(length=long(4)), both(length=long(64)), both(length=long(8), key_heads=4)]
    asked += [[Case("time", route, op, length=long(16), block=block) for route, blocks in BLOCKS.items()
               if route in routes for op in ("forward", "backward") for block in blocks]]
    return [case for group in asked for case in group]


def ask(asked: list[Case], record: dict, until: float, save, start, worker=None) -> None:
    """Puts the answers into record["answers"], by name; those that are there already are not asked for again.

    start: () -> a benchmark_worker.Worker. worker: one that has been started.
    """
    for case in asked:
        if case.name in record["answers"]:
            continue
        if time.monotonic() > until:
            break
        try:
            worker = worker or start()
            record.setdefault("device", worker.ready["device"])
            record["answers"][case.name] = worker.ask(json.dumps(vars(case)))
        except benchmark_worker.WorkerFailed as error:
            record["answers"][case.name] = {"failed": str(error)}
            if worker:
                worker.close()
            worker = None
        print(f"{case.name}: {_said(record['answers'][case.name])}", file=sys.stderr)
        save()
    if worker:
        worker.close()


def table(asked: list[Case], answers: dict) -> str:
    """A line for each case that was asked; of timed ones the ratio to PEER at the same problem."""
    lines = []
    for case in asked:
        if found := answers.get(case.name):
            peer = answers.get(Case(**vars(case) | {"route": PEER, "block": 0}).name, {})
            ratio = found["tflops"] / peer["tflops"] if "tflops" in found and "tflops" in peer else None
            lines.append((case.name, _said(found), benchmark.number(ratio)))
    return benchmark.table(("case", "answer", f"by {PEER}"), lines)


def _said(found: dict) -> str:
    if "tflops" in found:
        return f"{found['tflops']:.0f} TFLOP/s"
    if "error" in found:
        worst = max(found["error"], key=found["error"].get)
        verdict = "right" if found["error"][worst] <= found["limit"] else "WRONG"
        return f"{verdict}: {worst} off by {found['error'][worst]:.1e}, limit {found['limit']:.1e}"
    if "tokens_per_second" in found:
        peak = found["peak_bytes"]
        return f"{found['tokens_per_second']:,.0f} tokens/s" + (f", {peak / 2**30:.1f} GiB at most" if peak else "")
    return next(f"{word}: {found[word]}" for word in ("cannot", "failed") if word in found)


class _Handlers(dict):
    """A case as JSON -> the function that answers it."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __missing__(self, line):
        return lambda: answer(Case(**json.loads(line)), self.folder)


def _build(task):
    import jax
    device, folder = jax.devices()[0], pathlib.Path(task["folder"])
    said = {"kind": device.device_kind, "platform": device.platform, "jax": jax.__version__}
    return {"device": said}, _Handlers(folder if folder.exists() else None)


def main(argv=None) -> int:
    parser = benchmark.parser(__doc__.splitlines()[0], worker=None)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--out", metavar="DIR", default="runs/gpu_check")
    parser.add_argument("--routes", help=f"with commas (default: {','.join(ROUTES)})")
    parser.add_argument("--prepare", metavar="CHIP")
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"), help=argparse.SUPPRESS)
    parser.add_argument("--scale", type=int, default=1, help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    if chosen.worker is not None:
        return benchmark_worker.serve(_build, chosen.worker)
    folder = pathlib.Path(chosen.out)
    folder.mkdir(parents=True, exist_ok=True)
    return prepare(chosen, folder) if chosen.prepare else run(chosen, folder)


def prepare(chosen, folder: pathlib.Path) -> int:
    """Exports the programs of some routes for a chip; says which cannot be had."""
    from experiments.gpu_cases import export
    from pallas_kernels import gpu_chips
    chip, = benchmark.names("--prepare", chosen.prepare, gpu_chips.CHIPS)
    for case in cases(benchmark.names("--routes", chosen.routes or "jax_triton", KNOWN), chosen.scale):
        if case.kind != "step":
            try:
                export(case, folder / PROGRAMS, chip)
                print(case.name)
            except NotImplementedError as error:
                print(f"{case.name}: {error}")
    return 0


def run(chosen, folder: pathlib.Path) -> int:
    """Asks, within the minutes, and shows. Raises UserError where there is no GPU."""
    asked = cases(benchmark.names("--routes", chosen.routes or ",".join(ROUTES), KNOWN), chosen.scale)
    path = folder / "gpu_check.json"
    record = json.loads(path.read_text()) if path.exists() else {"environment": benchmark.environment(), "answers": {}}
    save = lambda: path.write_text(json.dumps(record, indent=1) + "\n")
    environment = {"JAX_PLATFORMS": {"gpu": "cuda"}.get(chosen.device, chosen.device),
                   "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}
    task = {"folder": str((folder / PROGRAMS).absolute())}
    start = lambda: benchmark_worker.Worker("experiments.gpu_check", task, environment, LIMIT)
    try:
        worker = start()
    except benchmark_worker.WorkerFailed as error:
        raise UserError(f"there is no GPU that jax can use here ({error}); python -m experiments.bench_kernels --chip "
                        "h200 says what is known without one.") from error
    save()
    ask(asked, record, time.monotonic() + 60 * chosen.minutes, save, start, worker)
    print(table(asked, record["answers"]))
    print(f"saved: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(benchmark.command(main))
