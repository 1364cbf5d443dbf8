"""Measures memory and time of a training step on one long row: the streamed backward beside plain autodiff.

    python -m experiments.bench.memory --out memory.json

A small float32 model on the CPU, equal random tokens for all sides, each side in a process of its own. Peak memory is
the process's while it trains, with its code and compiled program and without compilation, which needs less.
"""

import dataclasses
import sys
import time

from experiments.bench import train_step as bench_train
from experiments.bench.harness import options, record, sides
from experiments.settings import console, places
from longctx.config import Config, MemoryConfig, ModelConfig, StageConfig
from longctx.data import curriculum
from longctx.errors import UserError

PLAIN = "autodiff"
SIDES = {  # side -> settings of config.memory, except chunk_tokens
    PLAIN: {},
    "streamed": {"backward": "streamed"},
    "streamed, every 2": {"backward": "streamed", "residual_every": 2},
}


def config_of(task: dict) -> Config:
    """The Config of a task: wide layers and little attention, as in large models."""
    model = ModelConfig(
        layers=4, d_model=256, mlp_dim=1024, heads=1, kv_heads=1, head_dim=32, dtype="float32", remat="layer"
    )
    memory = SIDES[task["side"]]
    chunk = task["chunk"] if memory else 0
    return Config(
        batch_tokens=task["length"],
        stages=(StageConfig(seq_len=task["length"], steps=10),),
        model=model,
        memory=MemoryConfig(chunk_tokens=chunk, **memory),
    )


def build(task: dict):
    """(ready, handlers) for the step of one side, see sides.serve."""
    import numpy as np

    from longctx import meshes, optim, training

    config = config_of(task)
    (stage,) = stages = curriculum.plan(config)
    mesh = meshes.make(config.mesh)
    start = time.perf_counter()
    compiled = training.compile_step(config, optim.learning_rate(config.optim, stages), stage, mesh)
    compile_s = time.perf_counter() - start
    state = training.init_state(config, mesh)
    tokens = bench_train.random_tokens(1, stage.seq_len)
    batch = meshes.put_batch(bench_train.batch_of(tokens, np.roll(tokens, -1, 1)), mesh)

    def step() -> dict:
        nonlocal state
        start = time.perf_counter()
        state, metrics = compiled(state, batch)
        loss = float(metrics["loss"])
        return {"seconds": time.perf_counter() - start, "loss": loss}

    sides.reset_peak()
    return {"compile_s": compile_s, "temp_mb": compiled.memory_analysis().temp_size_in_bytes / sides.MIB}, {
        "step": step
    }


def measure(length: int, chunk: int, rounds: int) -> list[dict]:
    """A record per side; ratios are to autodiff."""
    records = {side: _steps({"side": side, "length": length, "chunk": chunk}, rounds) for side in SIDES}
    ratio = lambda record, name: record[name] / records[PLAIN][name] if record[name] and records[PLAIN][name] else None
    return [
        {**record, "time_over_autodiff": ratio(record, "best_s"), "memory_over_autodiff": ratio(record, "peak_mb")}
        for record in records.values()
    ]


def _steps(task: dict, rounds: int) -> dict:
    """The record of one side after `rounds` steps, or with a note where it cannot be measured."""
    record = {**task, "best_s": None, "peak_mb": None, "compile_s": None, "loss": None, "note": ""}
    try:
        with sides.Worker("experiments.bench.memory", task) as worker:
            replies = [worker.ask("step") for _ in range(rounds)]
            return record | worker.ready | replies[-1] | {"best_s": min(reply["seconds"] for reply in replies)}
    except sides.WorkerFailed as error:
        return record | {"note": str(error)}


def targets(records: list[dict]) -> list[dict]:
    """Targets of the streamed backward, at every length."""
    result, plain = [], next(r["loss"] for r in records if r["side"] == PLAIN)
    for r in records:
        if r["side"] != PLAIN:
            problem = f"{r['side']} at {r['length']}:"
            error = abs(r["loss"] - plain) / plain if r["loss"] and plain else None
            result += [
                record.target(f"{problem} peak memory over autodiff", r["memory_over_autodiff"], at_most=0.35),
                record.target(f"{problem} time over autodiff", r["time_over_autodiff"], at_most=1.3),
                record.target(f"{problem} relative difference in loss", error, at_most=1e-5),
            ]
    return result


def show(records: list[dict]) -> str:
    """The table of the records."""
    number = console.number
    return console.table(
        ("length", "side", "s/step", "x autodiff", "peak MB", "x autodiff", "compile s", ""),
        [
            (
                r["length"],
                r["side"],
                number(r["best_s"]),
                number(r["time_over_autodiff"]),
                number(r["peak_mb"]),
                number(r["memory_over_autodiff"]),
                number(r["compile_s"], 2),
                r["note"],
            )
            for r in records
        ],
    )


def main(argv: list[str] | None = None) -> int:
    parser = options.parser(__doc__, lengths="65536", rounds=1, out=None, worker=None)
    parser.add_argument("--chunk", type=int, default=4096, help="tokens at a time (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.worker:
        return sides.serve(build, args.worker)
    lengths = console.whole_numbers("--lengths", args.lengths)
    if any(length % args.chunk for length in lengths):
        raise UserError(f"--chunk={args.chunk} must divide --lengths={args.lengths}.")
    places.check_file("--out", args.out)
    environment, records = record.environment(), []
    for length in lengths:
        print(f"{length} tokens ...", file=sys.stderr, flush=True)
        records += measure(length, args.chunk, args.rounds)
    checked = targets(records)
    print(f"{show(records)}\n\n{record.target_table(checked)}")
    record.write(
        args.out,
        {
            "benchmark": "memory",
            "environment": environment,
            "records": records,
            "targets": checked,
            "model": dataclasses.asdict(config_of({"side": PLAIN, "length": lengths[0], "chunk": args.chunk}).model),
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
