"""Scores documents by what a long context is worth in them, to keep the best for training.

    python -m experiments.select --checkpoint MODEL --config.data.path=TEXT --out scores.jsonl
    python -m experiments.train --config FILE --config.data.path=TEXT \\
        --config.data.scores=scores.jsonl --config.data.keep=0.5

MODEL is a model of Hugging Face or a .gguf file; --against is a second one for the score "gap". The scores are in
longctx/evals/selection.py. Each document is a line with its name and score, null for one that is too short for it; the
same command goes on with documents that have no line yet. Held-out documents have none.
"""

import dataclasses
import json
import math
import pathlib

from experiments.run import command, models, processes
from experiments.settings import console, places
from longctx.data import selecting, sources, store, tokenizers
from longctx.errors import UserError, unknown_name
from longctx.hf import folder
from longctx.hf import sources as hub

EVERY = 50  # documents, after which a line says how far it is


def arguments(argv):
    """(the options, the --config.data.field=value among the arguments)."""
    parser = console.Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="MODEL", help="the model that reads")
    parser.add_argument("--against", metavar="MODEL", help="a second one, for --score gap")
    parser.add_argument(
        "--score", default="context", metavar="NAME", help="context, pairs, gap, awareness (default: %(default)s)"
    )
    parser.add_argument("--length", type=int, default=4096, metavar="N", help="tokens read (default: %(default)s)")
    parser.add_argument("--short", type=int, default=512, metavar="N", help="of a short context (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="FILE.jsonl", help="the scores")
    return parser.parse_with_settings(argv, texts=("score",))


def check(options, scores, several) -> None:
    """Raises UserError for options that cannot be."""
    if options.score not in scores:
        raise unknown_name("--score", options.score, scores)
    wants = several.get(options.score, 1)
    if (options.against is not None) != (wants == 2):
        what = "needs a second model" if wants == 2 else "asks one model"
        raise UserError(f"--score={options.score} {what}: {'give' if wants == 2 else 'leave out'} --against.")
    if not 1 <= options.short < options.length:
        raise UserError(f"--short={options.short} must be at least 1 and below --length={options.length}.")
    places.check_file("--out", options.out)


def model_of(path: str, option: str, settings: list[str]):
    """(the settings, the folder) of a model."""
    source = hub.folder(path, option)
    stored = folder.model_config(source)
    return models.settings(source, stored, settings, ("data",)), source, stored


def predictor_of(config, source, stored, mesh):
    """What predicts the targets of a batch."""
    from longctx.evals.predictor import no_more, predictor

    model, params = models.load(source, stored, config.model, mesh)
    return predictor(dataclasses.replace(config, model=model), mesh, params, model.rope, no_more)


def unscored(documents, out: pathlib.Path) -> list:
    """The documents that have no line yet."""
    there = selecting.read(str(out)) if out.exists() else {}
    return [document for document in documents if document.name not in there]


def main(argv) -> None:
    options, settings = arguments(argv[1:])
    from longctx.evals import batches, selection

    check(options, selection.SCORES, selection.MODELS)
    paths = {"--checkpoint": options.checkpoint} | ({"--against": options.against} if options.against else {})
    asked = [model_of(path, option, settings) for option, path in paths.items()]
    config, out = asked[0][0], pathlib.Path(options.out)
    tokenizer, *others = (tokenizers.of(one.data) for one, *_ in asked)
    if any(store.identity(other) != store.identity(tokenizer) for other in others):
        raise UserError(
            f"--against={options.against!r} has another tokenizer than --checkpoint; a relative has the same."
        )
    corpus = sources.load(config.data, tokenizer)
    todo = unscored(corpus.train, out)
    print(*corpus.notes, f"{len(corpus.train):,} documents, {len(todo):,} to be scored", sep="\n", flush=True)
    if not todo:
        return
    mesh = processes.start(config.mesh)
    predictors = [predictor_of(*one, mesh) for one in asked]
    plan = selection.Plan(options.length, options.short, tokenizer.bos, tokenizer.pad, config.seed)
    score = selection.SCORES[options.score]
    with open(out, "a", encoding="utf-8") as file:
        for number, document in enumerate(todo, start=1):
            found = score(predictors, batches.long_document(tokenizer, document), plan)
            line = {"name": document.name, "score": None if math.isnan(found) else round(found, 6)}
            print(json.dumps(line), file=file, flush=True)
            if number % EVERY == 0:
                print(f"{number:,} of {len(todo):,} documents", flush=True)
    scores = [value for value in selecting.read(str(out)).values() if not math.isnan(value)]
    print(
        f"{out}: {len(scores):,} documents have a score, {min(scores, default=0):.3f} to {max(scores, default=0):.3f}"
    )


if __name__ == "__main__":
    command.run(main)
