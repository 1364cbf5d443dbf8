"""Times questions: several about one context beside one, and what a suite takes beside its forward passes.

    python -m experiments.bench.questions --out questions.json

The model is the default one (3.1M parameters, random weights, float32), on the CPU; texts are bytes. `mqar` asks eight
questions about each context, in a row of so many tokens. A suite's time is everything: making texts, asking, counting.
"""

import functools
import sys
import time
from collections.abc import Callable

from experiments.bench.harness import options, record
from experiments.settings import console, places

QUERIES, MOST, OVERHEAD = 8, 1.3, 1.1  # questions about one context; aims
MODEL = {}  # fields of ModelConfig that are not the default ones


class Timed:
    """A predictor that counts the seconds in its passes."""

    def __init__(self, predictor):
        self.predictor, self.seconds = predictor, 0.0

    def __call__(self, batch):
        return self._count(self.predictor, batch)

    def branched(self, batch, length):
        return self._count(self.predictor.branched, batch, length)

    def _count(self, call, *args):
        start = time.perf_counter()
        found = call(*args)
        self.seconds += time.perf_counter() - start
        return found


def model():
    """(a predictor of random weights, the tokenizer of bytes)."""
    import jax

    from longctx import meshes, training
    from longctx.config import Config, ModelConfig
    from longctx.data.tokenizers import ByteTokenizer
    from longctx.evals.predictor import predictor

    jax.config.update("jax_platforms", "cpu")
    config = Config(model=ModelConfig(dtype="float32", **MODEL))
    mesh = meshes.make(config.mesh)
    params = training.init_state(config, mesh)["params"]
    return predictor(config, mesh, params, config.model.rope), ByteTokenizer()


def best(call: Callable[[], object], rounds: int) -> float:
    """The least seconds of a call, which is made once before."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def of_one_context(predictor, tokenizer, length: int, rounds: int) -> list[dict]:
    """Records of one question and of QUERIES about the same context, asked in each way."""
    from longctx.evals import asking
    from longctx.evals.questions import fit
    from longctx.evals.questions.api import QUESTIONS

    task, records = QUESTIONS["mqar"], []
    sample = fit.fitted(task, "mqar", tokenizer, length, 0, 0).sample
    for way, ask in asking.WAYS.items():
        asked = [[(sample, query) for query in sample.queries[:count]] for count in (1, QUERIES)]
        one, several = (best(functools.partial(ask, predictor, tokenizer, length, task, x), rounds) for x in asked)
        records.append({"way": way, "length": length, "one_s": one, "several_s": several, "ratio": several / one})
    return records


def of_a_suite(predictor, tokenizer, length: int) -> dict:
    """The seconds of the suite "quick", after it was compiled, and of its forward passes."""
    from longctx.config import EvalConfig
    from longctx.evals.tasks import questions

    config, timed = EvalConfig(questions=("quick",)), Timed(predictor)
    run = lambda: questions.run(timed, (), tokenizer, config, (length,), 0)
    run()
    timed.seconds, start = 0.0, time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    return {"suite": "quick", "length": length, "seconds": seconds, "passes_s": timed.seconds} | {
        "overhead": seconds / timed.seconds
    }


def main(argv: list[str] | None = None) -> int:
    parser = options.parser(__doc__, out=None, rounds=3)
    parser.add_argument("--length", type=int, default=4096, help="tokens of a row (default: %(default)s)")
    args = parser.parse_args(argv)
    places.check_file("--out", args.out)
    environment, (predictor, tokenizer) = record.environment(), model()
    records = of_one_context(predictor, tokenizer, args.length, args.rounds)
    suite = of_a_suite(predictor, tokenizer, args.length)
    rows = [(r["way"], *(console.number(r[name]) for name in ("one_s", "several_s", "ratio"))) for r in records]
    print(console.table(("way", "one, s", f"{QUERIES}, s", "ratio"), rows))
    print(f"suite quick: {suite['seconds']:.2f} s, of which {suite['passes_s']:.2f} s forward passes\n")
    checked = [record.target(f"{r['way']}: {QUERIES} questions over one", r["ratio"], at_most=MOST) for r in records]
    checked.append(record.target("suite over its forward passes", suite["overhead"], at_most=OVERHEAD))
    print(record.target_table(checked))
    content = {"benchmark": "questions", "environment": environment, "records": records, "suite": suite}
    record.write(args.out, content | {"targets": checked})
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
