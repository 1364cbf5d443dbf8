"""Trains a small model on text with each position method, and reads longer text with it: what is worth more context.

    python -m experiments.bench.extrapolate --out extrapolate.json --picture extrapolate.png

The text is the source of Python's standard library, byte by byte. Every method is trained at TRAINED tokens from each
seed; then the same last targets of held-out documents are read behind more and more of what precedes them, with nothing
changed. Where the loss falls a method makes use of more than it was trained for, where it rises it does not bear it.
"""

import functools
import pathlib
import sys
import time

import numpy as np

from experiments.bench.harness import cuts, options, record
from experiments.bench.harness.positions import method_and_mask
from experiments.pictures import extrapolating as figures
from experiments.settings import config as configs
from experiments.settings import console, defaults, places, stage
from longctx.config import DataConfig
from longctx.errors import UserError

POSITIONS = "rope", "nope", "alibi", "t5", "rope, window 64"
TRAINED = 256  # tokens
TIMES = 1, 2, 4, 8  # of the trained length
LAST = 128  # targets of each document that are read


def settings(position: str, seed: int, steps: int):
    """The Settings of a model with a position method, perhaps with a sliding window, see harness.positions."""
    config, (method, mask) = defaults(), method_and_mask(position)
    config.name, config.seed, config.batch_tokens = "extrapolate", seed, 2048
    config.stages = (stage(seq_len=TRAINED, steps=steps),)
    config.model.update(position=method, mask=mask)
    config.model.update(layers=3, d_model=64, mlp_dim=176, heads=4, kv_heads=4, head_dim=16)
    config.model.update(qk_norm="rms", dtype="float32", remat="none")
    config.optim.update(learning_rate=5e-3, warmup_steps=max(1, steps // 16))
    return configs.from_config_dict(config)


def ends(documents, tokenizer, longest: int, count: int) -> list:
    """(document, place of the target after its last one) of some documents, cut at a drawn place from `longest` on."""
    found = cuts.drawn(documents, tokenizer, longest, count)
    if not found:
        raise UserError(f"no held-out document has {longest} tokens.")
    return found


@functools.cache
def library():
    """(tokenizer, held-out documents, tokenised text) that all trainings share."""
    from longctx.data import texts, tokenizers

    data = DataConfig()
    tokenizer, corpora = tokenizers.load(data.tokenizer), texts.load(data)
    return tokenizer, corpora.held_out, texts.tokenize(corpora, data, tokenizer)


def measure(position: str, seed: int, steps: int, documents: int) -> dict:
    """The record of one training: the loss of the last targets by the tokens that are read, in nats."""
    from experiments.run import alone, batches, processes
    from longctx.evals import batches as pieces
    from longctx.evals import predictor

    print(f"{position}, seed {seed}", flush=True)
    config, start = settings(position, seed, steps), time.monotonic()
    mesh, (tokenizer, held_out, text) = processes.start(config.mesh), library()
    stream = lambda stage: batches.of_text(config, mesh, text, tokenizer, stage)[0]
    params, went = alone.trained(config, mesh, stream)
    read = functools.partial(predictor.reader(config, mesh, config.model.rope), params)
    read_of = ends(held_out, tokenizer, TRAINED * TIMES[-1], documents)
    found = []
    for length in (TRAINED * times for times in TIMES):
        rows = [[pieces.last_tokens(document.ids, end, length, tokenizer.bos)] for document, end in read_of]
        of_rows = pieces.score(read, rows, length, tokenizer.pad)
        found.append(round(float(np.mean([row.nll[-LAST:].mean() for (row,) in of_rows])), 4))
    return {
        "position": position,
        "seed": seed,
        "lengths": [TRAINED * times for times in TIMES],
        "loss": found,
        "documents": len(read_of),
        "steps": went["steps"],
        "last_batch": round(went["loss"], 4),
        "seconds": round(time.monotonic() - start, 1),
    }


def rows(records: list[dict]) -> list[list[str]]:
    """The losses of each position method at every length, by seed."""
    return [
        [
            position,
            *(
                " / ".join(f"{loss:.2f}" for loss in column)
                for column in np.transpose([r["loss"] for r in records if r["position"] == position])
            ),
        ]
        for position in dict.fromkeys(record["position"] for record in records)
    ]


def main(argv: list[str] | None = None) -> int:
    parser = options.parser(__doc__, out=None)
    parser.add_argument("--positions", default=";".join(POSITIONS), help="with semicolons (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=500, help="of a training (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=64, help="that are read (default: %(default)s)")
    parser.add_argument("--picture", metavar="FILE.png", help="draw the results here")
    args = parser.parse_args(argv)
    for name in ("out", "picture"):
        places.check_file(f"--{name}", getattr(args, name))
    environment, records = record.environment(), []
    for seed in range(args.seeds):
        for position in args.positions.split(";"):
            records.append(measure(position, seed, args.steps, args.documents))
            record.write(args.out, {"benchmark": "extrapolate", "environment": environment, "records": records})
    print(console.table(("position", *(f"{length:,}" for length in records[0]["lengths"])), rows(records)))
    if args.picture:
        figures.extrapolating(records).savefig(pathlib.Path(args.picture), dpi=200)
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
