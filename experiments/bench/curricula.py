"""Trains a small model on the same tokens by several curricula: their FLOPs, time and held-out loss by position.

    python -m experiments.bench.curricula --out curricula.json --picture curricula.png

The text is the source of Python's standard library, byte by byte. Every arm, a name in ARMS of
experiments/bench/harness/curricula.py, is trained from each seed: equally many tokens, one learning-rate schedule, the
same parameters at the start, the same held-out text. What is in the file of --out already is not trained again. Times
are of steps alone, of batches of all arms in turn.
"""

import dataclasses
import functools
import json
import operator
import pathlib
import sys
import time

import numpy as np

from experiments.bench.harness import curricula as study
from experiments.bench.harness import cuts, options, record
from experiments.bench.harness.curricula import ARMS, Size
from experiments.bench.harness.curricula_tables import contrasts, learned, taken
from experiments.pictures import curricula as figures
from experiments.pictures.curricula import BASE
from experiments.settings import console, places
from longctx.errors import UserError

OPTIONS = {
    "length": "tokens of a row",
    "short": "tokens of a row before a switch",
    "steps": "of a training",
    "batch_tokens": "tokens of a step",
    "windows": "held-out documents that are read",
    "width": "of the model",
}


class Bench:
    """What trainings share: the mesh, the text, one compiled step for each length of a row, the held-out rows."""

    def __init__(self, size: Size):
        from experiments.run import processes
        from longctx.data import curriculum, texts, tokenizers

        self.size, self.config = size, study.settings(ARMS[BASE], size)
        self.mesh, self.tokenizer = processes.start(self.config.mesh), tokenizers.load(self.config.data.tokenizer)
        corpora = texts.load(self.config.data)
        self.text = texts.tokenize(corpora, self.config.data, self.tokenizer)
        self.held_out = self._held_out(corpora.held_out)
        self.whole, self._steps = curriculum.plan(self.config), {}

    def _held_out(self, documents) -> list:
        """A cut of each of some documents at a place that is drawn, as rows of longctx.evals.batches.score."""
        from longctx.evals import batches

        length = self.size.length
        found = cuts.drawn(documents, self.tokenizer, length, self.size.windows)
        if not found:
            raise UserError(f"no held-out document has {length} tokens; a shorter --length works.")
        return [[batches.last_tokens(document.ids, end, length, self.tokenizer.bos)] for document, end in found]

    def step(self, length: int):
        """The compiled step for rows of a length: the schedule is that of all steps, whatever the stages are."""
        from longctx import optim, training

        if length not in self._steps:
            print(f"compiling a step at length {length:,} ...", flush=True)
            rate, rows = optim.learning_rate(self.config.optim, self.whole), self.size.batch_tokens // length
            of = dataclasses.replace(self.whole[0], seq_len=length, batch_size=rows)
            self._steps[length] = training.compile_step(self.config, rate, of, self.mesh)
        return self._steps[length]

    def stream(self, arm: study.Arm, config, stage):
        """The batches of a stage of an arm."""
        from experiments.run import batches
        from longctx.data import pipeline

        of = {name: dataclasses.replace(one, packing=arm.packing) for name, one in self.text.of.items()}
        text = dataclasses.replace(self.text, of=of)
        rows = pipeline.stage_rows(text, self.tokenizer, stage, config.data, config.seed)
        return batches.of_rows(config, self.mesh, study.Joined(rows) if arm.joined else rows, stage)

    @functools.cached_property
    def read(self):
        """(parameters, batch) -> predictions."""
        from longctx.evals import predictor

        return predictor.reader(self.config, self.mesh, self.config.model.rope)

    def losses(self, params) -> np.ndarray:
        """The loss of every held-out target in nats, [windows, length]."""
        from longctx.evals import batches

        read = functools.partial(self.read, params)
        found = batches.score(read, self.held_out, self.size.length, self.tokenizer.pad)
        return np.stack([one.nll for (one,) in found])


def measure(bench: Bench, name: str, seed: int) -> dict:
    """The record of one training: its losses, FLOPs and what was fed."""
    from experiments.run import loop
    from longctx import training
    from longctx.data import curriculum

    arm, start = ARMS[name], time.monotonic()
    config = study.settings(arm, bench.size, seed)
    state, counted, metrics = training.init_state(config, bench.mesh), study.tally(config), []
    for stage in curriculum.plan(config):
        stream, step = bench.stream(arm, config, stage), bench.step(stage.seq_len)
        numbers, waits = range(stage.first_step, stage.end_step), functools.partial(operator.eq, stage.end_step)
        for step_taken in loop.take(step, counted.through(stream), state, bench.mesh, numbers, waits):
            state, metrics = step_taken.state, step_taken.metrics or metrics
        stream.close()
    nll = bench.losses(state["params"])
    print(f"{name}, seed {seed}: {nll.mean():.4f} nats, {time.monotonic() - start:.0f} s", flush=True)
    fed = {name: getattr(counted, name) for name in ("targets", "segments", "tokens")}
    return {
        "arm": name,
        "seed": seed,
        "mean": round(float(nll.mean()), 5),
        "loss": [round(value, 5) for value in study.by_bin(nll, bench.size.length)],
        "last_step_loss": round(float(metrics[-1]["loss"]), 5),
        "skipped": int(metrics[-1]["skipped"]),
        "fed": fed | {"slots": bench.size.steps * bench.size.batch_tokens},
        "flops": study.flops(config, bench.mesh, counted),
    }


def sampled(bench: Bench, name: str, count: int) -> list:
    """(compiled step, batch) of `count` steps of an arm, evenly over its steps, of seed 0."""
    from longctx import meshes
    from longctx.data import curriculum

    config, found = study.settings(ARMS[name], bench.size), []
    wanted = {int((i + 0.5) * bench.size.steps / count) for i in range(count)}
    for stage in curriculum.plan(config):
        stream = bench.stream(ARMS[name], config, stage)
        for number in range(stage.first_step, stage.end_step):
            batch = next(stream)
            if number in wanted:
                step = bench.step(stage.seq_len)
                found.append((step, meshes.put_batch(batch, bench.mesh)))
        stream.close()
    return found


def timed(bench: Bench, names: list[str], count: int, rounds: int) -> list[dict]:
    """Seconds of the steps of every arm: the least of some rounds for each of its sampled steps, all arms in turn."""
    import jax

    from longctx import training

    samples = {name: sampled(bench, name, count) for name in names}
    state, best = training.init_state(bench.config, bench.mesh), {name: np.full(count, np.inf) for name in names}
    for number in range(rounds + 1):  # the first one warms up
        for i in range(count):
            for name in names:
                step, batch = samples[name][i]
                start = time.perf_counter()
                state, metrics = step(state, batch)
                jax.block_until_ready(metrics)
                if number:
                    best[name][i] = min(best[name][i], time.perf_counter() - start)
    return [
        {"arm": name, "seconds": round(float(found.mean()) * bench.size.steps, 2), "ms": _milliseconds(found)}
        for name, found in best.items()
    ]


def _milliseconds(seconds: np.ndarray) -> list[float]:
    return [round(1e3 * float(value), 2) for value in seconds]


def found_before(path: str | None, size: Size) -> dict:
    """What an earlier start has written; raises UserError where it was of another size."""
    content = {"benchmark": "curricula", "environment": record.environment(), "size": dataclasses.asdict(size)}
    content |= {"edges": study.edges(size.length), "records": [], "times": []}
    if not path or not pathlib.Path(path).exists():
        return content
    before = json.loads(pathlib.Path(path).read_text())
    if before.get("size") != content["size"]:
        raise UserError(f"--out {path!r} holds results of other sizes, {before.get('size')}; name another file.")
    before.pop("command")
    return before


def parser():
    """The options of the command."""
    result, own = options.parser(__doc__ or "", out=None, rounds=12), Size()
    result.add_argument("--arms", default=",".join(ARMS), help="with commas (default: %(default)s)")
    result.add_argument("--seeds", type=int, default=3, help="trainings of each (default: %(default)s)")
    for field, words in OPTIONS.items():
        name = f"--{field.replace('_', '-')}"
        result.add_argument(name, type=int, default=getattr(own, field), help=f"{words} (default: %(default)s)")
    result.add_argument("--timed", type=int, default=16, help="steps of each arm that are timed (default: %(default)s)")
    result.add_argument("--picture", metavar="FILE.png", help="draw the results here")
    return result


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    for name in ("out", "picture"):
        places.check_file(f"--{name}", getattr(args, name))
    names = console.names("--arms", args.arms, ARMS)
    shared = {field.name for field in dataclasses.fields(Size)} & vars(args).keys()
    size = Size(**{name: getattr(args, name) for name in shared})
    content = found_before(args.out, size)
    bench = Bench(size)
    done = {(one["arm"], one["seed"]) for one in content["records"]}
    for seed in range(args.seeds):  # a run that is stopped has fewer seeds of all arms
        for name in names:
            if (name, seed) not in done:
                content["records"].append(measure(bench, name, seed))
                record.write(args.out, content)
    if args.timed and {one["arm"] for one in content["times"]} != set(names):
        content["times"] = timed(bench, names, args.timed, args.rounds)
        record.write(args.out, content)
    for of in (taken, contrasts, learned):
        print(console.table(*of(content)), end="\n\n" if of is not learned else "\n")
    if args.picture:
        figures.curricula(content).savefig(pathlib.Path(args.picture), dpi=200)
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
