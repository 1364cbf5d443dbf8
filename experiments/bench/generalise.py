"""Trains a tiny model to recall with each position method, and reads it beyond its length: which of them generalise.

    python -m experiments.bench.generalise --out generalise.json --picture generalise.png

The model and its curriculum are those of configs/recall.py, up to 256 tokens; nothing is changed between training and
reading but the length. Every method is trained from each seed; a value counts as recalled where it is the top choice.
"""

import functools
import pathlib
import sys
import time

import numpy as np

from experiments.bench.harness import options, record
from experiments.bench.harness.positions import method_and_mask
from experiments.pictures import generalising as figures
from experiments.settings import config as configs
from experiments.settings import console, places

POSITIONS = "rope", "nope", "alibi", "t5", "rope, window 128"
TIMES = 1, 2, 4, 8  # of the trained length
DEPTHS = 8


def settings(position: str, seed: int, file: str):
    """The Settings of a model with a position method, perhaps with a sliding window."""
    method, mask = method_and_mask(position)
    changed = [f"--config.model.position={method}", f"--config.model.mask={mask}"]
    file += f"{',' if ':' in file else ':'}seed={seed}"
    return configs.from_command_line(["command", f"--config={file}", *changed])[0]


def measure(position: str, seed: int, rows: int, file: str) -> dict:
    """The record of one training: values asked and recalled, by length and depth of the needle."""
    from experiments.run import processes, recall
    from longctx.evals.predictor import no_more, predictor
    from longctx.evals.tasks.recall import Recall

    config, start = settings(position, seed, file), time.monotonic()
    mesh = processes.start(config.mesh)
    print(f"{position}, seed {seed}", flush=True)
    params, went = recall.trained(config, mesh)
    task = Recall(config.recall, rows, DEPTHS, config.seed)
    read, lengths = (
        predictor(config, mesh, params, config.model.rope, no_more),
        [config.stages[-1].seq_len * times for times in TIMES],
    )
    counts = []
    for length in lengths:
        size = max(1, 8192 // length)
        parts = [task.rows(length, range(i, min(i + size, rows))) for i in range(0, rows, size)]
        counts.append(task.merged([part.counted(read(part.batch)) for part in parts]))
    return {
        "position": position,
        "seed": seed,
        "lengths": lengths,
        "asked": [count["asked"] for count in counts],
        "right": [count["right"] for count in counts],
        "loss": went["loss"],
        "seconds": round(time.monotonic() - start, 1),
    }


def shares(records: list[dict], position: str) -> np.ndarray:
    """The share of values recalled by a position method, [seeds, lengths]."""
    of = [r for r in records if r["position"] == position]
    return np.array([np.sum(r["right"], 1) / np.sum(r["asked"], 1) for r in of])


def main(argv: list[str] | None = None) -> int:
    parser = options.parser(__doc__, out=None)
    parser.add_argument("--positions", default=";".join(POSITIONS), help="with semicolons (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=32, help="rows of each length (default: %(default)s)")
    parser.add_argument("--config", default="configs/recall.py", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--picture", metavar="FILE.png", help="draw the results here")
    args = parser.parse_args(argv)
    for name in ("out", "picture"):
        places.check_file(f"--{name}", getattr(args, name))
    positions = args.positions.split(";")
    environment, of = record.environment(), functools.partial(measure, rows=args.rows, file=args.config)
    records = [of(position, seed) for position in positions for seed in range(args.seeds)]
    lengths = records[0]["lengths"]
    rows = [
        (position, *(" / ".join(f"{100 * seed:.0f}" for seed in column) for column in shares(records, position).T))
        for position in positions
    ]
    print(console.table(("position, % by seed", *(f"{length:,}" for length in lengths)), rows))
    record.write(args.out, {"benchmark": "generalise", "environment": environment, "records": records})
    if args.picture:
        figures.generalising(records).savefig(pathlib.Path(args.picture), dpi=200)
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
