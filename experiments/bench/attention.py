"""Times causal attention: our chunked kernel beside jax.nn.dot_product_attention and, where installed, PyTorch SDPA.

    python -m experiments.bench.attention --out attention.json --picture attention.png

Every side gets the same arrays and threads, and works on the CPU in a process of its own (harness/sides.py).
The backward takes dout and gives dq, dk and dv. Temporary memory is what the compiled program allocates beside its
arguments and results; for PyTorch, which compiles nothing, it is the growth of the process's peak resident memory,
without the results.
"""

import itertools
import sys
import time
from typing import NamedTuple

import numpy as np

from experiments.bench.harness import options, record, sides
from experiments.settings import console, places
from longctx.errors import UserError

PASSES = ("forward", "forward+backward")
OURS, DENSE, TORCH = "chunked", "jax.nn dense", "PyTorch SDPA"
SIDES = {OURS: (), DENSE: (), TORCH: ("torch",)}  # side -> the packages that it needs
AGREEMENT = {"float32": 1e-3, "bfloat16": 3e-2}  # relative difference of mean |result| from which on a note says so


class Problem(NamedTuple):
    """The size of one problem; memory_limit_mb: of temporary memory, above which a pass is skipped."""

    length: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    memory_limit_mb: float


def arrays(problem: Problem) -> list[np.ndarray]:
    """q, k, v and dout in float32, BTNH with B = 1, equal for every side."""
    rng = np.random.default_rng(0)
    heads = (problem.heads, problem.kv_heads, problem.kv_heads, problem.heads)
    return [rng.standard_normal((1, problem.length, n, problem.head_dim), np.float32) for n in heads]


def chunked(q, k, v):
    """Causal attention by our chunked kernel, BTNH."""
    import jax.numpy as jnp

    from pallas_kernels.attention import api
    from pallas_kernels.attention.pair import Inputs
    from pallas_kernels.attention.spec import AttentionSpec
    from pallas_kernels.masks import Causal, TokenInfo

    info = TokenInfo(jnp.arange(q.shape[1], dtype=jnp.int32)[None], jnp.ones((1, q.shape[1]), jnp.int32))
    return api.attention(Inputs(q, k, v, info, info), AttentionSpec(Causal()), "chunked").out


def dense(q, k, v):
    """Causal attention by jax.nn.dot_product_attention, BTNH."""
    import jax

    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


def build_jax(attend, problem: Problem):
    """(ready, handlers) for a JAX function: compiles both passes, and runs those within the memory limit once."""
    import jax
    import jax.numpy as jnp

    q, k, v, dout = (jnp.asarray(x, problem.dtype) for x in arrays(problem))

    def both(q, k, v, dout):
        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(dout)

    ready, handlers = {"compile_s": {}, "temp_mb": {}, "size": {}, "skipped": {}}, {}
    for name, function, args in ((PASSES[0], attend, (q, k, v)), (PASSES[1], both, (q, k, v, dout))):
        start = time.perf_counter()
        compiled = jax.jit(function).lower(*args).compile()
        ready["compile_s"][name] = time.perf_counter() - start
        ready["temp_mb"][name] = needed = compiled.memory_analysis().temp_size_in_bytes / sides.MIB
        if needed > problem.memory_limit_mb:
            ready["skipped"][name] = (
                f"skipped: needs {needed / 1024:.3g} GB of temporary memory, "
                f"the limit is {problem.memory_limit_mb / 1024:.3g}"
            )
            continue
        run = lambda compiled=compiled, args=args: jax.block_until_ready(compiled(*args))
        ready["size"][name] = mean_size(np.asarray(x, np.float32) for x in jax.tree.leaves(run()))
        handlers[name] = lambda run=run: sides.timed(run)
    return ready, handlers


def build_torch(problem: Problem):
    """(ready, handlers) for torch.nn.functional.scaled_dot_product_attention with is_causal=True."""
    import torch

    torch.set_num_threads(sides.threads())
    load = lambda x: torch.from_numpy(x).to(getattr(torch, problem.dtype)).transpose(1, 2).contiguous()  # BNTH
    q, k, v, dout = map(load, arrays(problem))
    inputs = [x.requires_grad_() for x in (q, k, v)]

    def attend(q, k, v):
        grouped = {"enable_gqa": True} if problem.heads != problem.kv_heads else {}
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, **grouped)

    def forward(tokens=None):
        with torch.no_grad():
            return (attend(*(x[:, :, :tokens] for x in inputs)),)

    def both(tokens=None):
        out = attend(*(x[:, :, :tokens] for x in inputs))
        return out, *torch.autograd.grad(out, inputs, dout[:, :, :tokens])

    both(tokens=16)  # loads the libraries
    ready, handlers = {"compile_s": {}, "temp_mb": {}, "size": {}}, {}
    for name, run in zip(PASSES, (forward, both), strict=True):
        results = None  # the results of the pass before must not count
        sides.reset_peak()
        before = sides.peak_mb()
        results = run()
        result_mb = sum(x.numel() * x.element_size() for x in results) / sides.MIB
        ready["temp_mb"][name] = max(0.0, sides.peak_mb() - before - result_mb)
        ready["size"][name] = mean_size(x.detach().float().numpy() for x in results)
        handlers[name] = lambda run=run: sides.timed(run)
    return ready, handlers


def mean_size(results) -> float:
    """The mean of |x| over all results; sides whose means differ do not compute the same function."""
    return float(np.mean([np.abs(x).mean(dtype=np.float64) for x in results]))


def build(task: dict):
    """(ready, handlers) for one side, see sides.serve."""
    problem = Problem(**task["problem"])
    if task["side"] == TORCH:
        return build_torch(problem)
    return build_jax({OURS: chunked, DENSE: dense}[task["side"]], problem)


def measure(problem: Problem, rounds: int) -> list[dict]:
    """A record per side and pass, with the seconds of each run, compile_s, temp_mb and a note."""
    tasks = {side: {"side": side, "needs": needs, "problem": problem._asdict()} for side, needs in SIDES.items()}
    results = sides.compare("experiments.bench.attention", tasks, PASSES, rounds)
    records = []
    for (side, result), name in itertools.product(results.items(), PASSES):
        get = lambda field, result=result, name=name: result.get(field, {}).get(name)
        ours, size = results[OURS].get("size", {}).get(name), get("size")
        differs = ours and size and abs(size - ours) > AGREEMENT[problem.dtype] * ours
        records.append(
            {
                "length": problem.length,
                "dtype": problem.dtype,
                "pass": name,
                "side": side,
                "seconds": result["seconds"][name],
                "compile_s": get("compile_s"),
                "temp_mb": get("temp_mb"),
                "note": result["note"] or get("skipped") or ("the results differ from ours" if differs else ""),
            }
        )
    return records


def compared(records: list[dict]) -> list[dict]:
    """The records with best_s, median_s and times_ours, the ratio of best_s to our best_s, added."""
    best = {(r["length"], r["dtype"], r["pass"], r["side"]): min(r["seconds"]) for r in records if r["seconds"]}
    result = []
    for r in records:
        problem = (r["length"], r["dtype"], r["pass"])
        best_s, ours = best.get((*problem, r["side"])), best.get((*problem, OURS))
        median_s = float(np.median(r["seconds"])) if r["seconds"] else None
        ratio = best_s / ours if best_s and ours else None
        result.append({**r, "best_s": best_s, "median_s": median_s, "times_ours": ratio})
    return result


def targets(records: list[dict], length: int = 8192, dtype: str = "float32") -> list[dict]:
    """Targets of the chunked kernel at 4 heads of 64; empty when this length and dtype were not measured."""
    rows = {(r["side"], r["pass"]): r for r in compared(records) if (r["length"], r["dtype"]) == (length, dtype)}
    if not rows:
        return []
    result = []
    for name in PASSES:
        ours, other, torch = (rows[side, name] for side in (OURS, DENSE, TORCH))
        saving = other["temp_mb"] / ours["temp_mb"] if other["temp_mb"] and ours["temp_mb"] else None
        problem = f"{name} at {length}, {dtype}:"
        result += [
            record.target(f"{problem} speed over dense", other["times_ours"], at_least=8),
            record.target(f"{problem} dense's temporary memory over ours", saving, at_least=100),
            record.target(f"{problem} speed over PyTorch SDPA", torch["times_ours"], at_least=0.9),
        ]
    return result


def show(records: list[dict]) -> str:
    """The table of the records."""
    number = console.number
    header = ("length", "dtype", "pass", "side", "best s", "median s", "x ours", "temp MB", "compile s", "")
    return console.table(
        header,
        [
            (
                r["length"],
                r["dtype"],
                r["pass"],
                r["side"],
                number(r["best_s"]),
                number(r["median_s"]),
                number(r["times_ours"]),
                number(r["temp_mb"]),
                number(r["compile_s"], 2),
                r["note"],
            )
            for r in compared(records)
        ],
    )


def picture(path: str, records: list[dict], environment: dict) -> None:
    """Draws best seconds against length, a panel per pass; solid and dashed lines are dtypes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from longctx.evals.drawing import MARKERS, PALETTE, STYLE

    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        dtypes = list(dict.fromkeys(r["dtype"] for r in records))
        for axes, name in zip(figure.subplots(1, 2, sharey=True), PASSES, strict=True):
            for (i, side), (j, dtype) in itertools.product(enumerate(SIDES), enumerate(dtypes)):
                points = [
                    (r["length"], min(r["seconds"]))
                    for r in records
                    if (r["side"], r["dtype"], r["pass"]) == (side, dtype, name) and r["seconds"]
                ]
                if points:
                    axes.plot(
                        *zip(*sorted(points), strict=True),
                        color=PALETTE[i],
                        marker=MARKERS[i],
                        linestyle=("-", "--")[j],
                        label=f"{side}, {dtype}",
                    )
            lengths = sorted({r["length"] for r in records})
            axes.set(xscale="log", yscale="log", xlabel="tokens", title=f"Causal attention, {name}")
            axes.set_xticks(lengths, [str(length) for length in lengths])
            axes.minorticks_off()
        figure.axes[0].set_ylabel("seconds")
        figure.axes[0].legend(handlelength=3)
        figure.supxlabel(f"{environment['cpu']}, {environment['threads']} threads, {environment['date']}", fontsize=7)
        figure.savefig(path, dpi=200)


def arguments(argv):
    """The parsed options."""
    parser = options.parser(
        __doc__, lengths="2048,8192,32768", dtype="float32,bfloat16", rounds=5, out=None, worker=None
    )
    parser.add_argument("--heads", type=int, default=4, help="query heads (default: %(default)s)")
    parser.add_argument("--kv-heads", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--head-dim", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument(
        "--memory-limit",
        type=float,
        default=8.0,
        metavar="GB",
        help="skip what needs more temporary memory, or more than half the machine's (default: %(default)s)",
    )
    parser.add_argument("--picture", metavar="FILE.png", help="draw time against length")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    if args.worker:
        return sides.serve(build, args.worker)
    lengths, dtypes = console.whole_numbers("--lengths", args.lengths), options.dtypes(args.dtype)
    if min(args.heads, args.kv_heads, args.head_dim) < 1 or args.heads % args.kv_heads:
        raise UserError(f"--kv-heads={args.kv_heads} must divide --heads={args.heads}; 1 and {args.heads} do.")
    places.check_file("--out", args.out)
    places.check_file("--picture", args.picture)
    limit = min(args.memory_limit * 1024, sides.memory_mb() / 2)
    environment, records = record.environment(), []
    for length, dtype in itertools.product(lengths, dtypes):
        print(f"{length} tokens, {dtype} ...", file=sys.stderr, flush=True)
        records += measure(Problem(length, args.heads, args.kv_heads, args.head_dim, dtype, limit), args.rounds)
    print(show(records))
    checked = targets(records) if (args.heads, args.kv_heads, args.head_dim) == (4, 4, 64) else []
    if checked:
        print("\n" + record.target_table(checked))
    record.write(
        args.out,
        {
            "benchmark": "attention",
            "environment": environment,
            "batch": 1,
            "heads": args.heads,
            "kv_heads": args.kv_heads,
            "head_dim": args.head_dim,
            "records": compared(records),
            "targets": checked,
        },
    )
    if args.picture:
        picture(args.picture, records, environment)
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
