"""Shows what a config feeds to a model, and trains nothing: sources, rows, what is left out, what counts in the loss.

    python -m experiments.data --config FILE [--config.field=value ...] [--workdir DIR]

Reads and tokenises the text as experiments.train would. Prints documents and tokens; for each stage and source the
rows, the tokens that a run is fed and how often it sees them; what every way of packing (data.packing) would waste; and
the first rows of the run as text, with what does not count in the loss in brackets. Saves data.png in --workdir: which
tokens of a row see which, and the schedule over the steps.
"""

import numpy as np

from experiments.run import checks, command
from experiments.settings import config as configs
from experiments.settings import console, places
from longctx.data import pipeline, rows
from longctx.data.curriculum import Stage
from longctx.data.generated import api as generated
from longctx.data.mixture import Mixture
from longctx.data.packing.api import COMPARED, PACKINGS

ROWS, SHOWN = 3, 400  # rows that are shown as text, and characters of each
MOST_COMPARED = 10_000_000  # tokens: packings that compare all of them take up to ten seconds for so many


def fed(stage: Stage, names: tuple[str, ...], mixture: Mixture) -> list[tuple]:
    """A line of the table for each source of a stage."""
    epochs, lines = stage.steps * stage.batch_size / max(len(mixture), 1), []
    for name, source in zip(names, mixture.sources, strict=True):
        tokens = len(source) * stage.seq_len * (1 - source.waste)
        lines.append(
            (
                stage.index + 1,
                f"{stage.seq_len:,}",
                name,
                f"{len(source):,}",
                f"{tokens * epochs:,.0f}",
                f"{epochs:.3g}",
                f"{source.waste:.2%}",
                f"{source.left_out:,}",
            )
        )
    return lines


def packed(text: rows.TokenTable, lengths: list[int], seed: int, own: str) -> list[tuple]:
    """A line for each way of packing: padding at each length, and the share of the text that it leaves out.

    own: the way of the run. Others that take long for so much text are left out, as a line says.
    """
    lines, tokens = [], int(text.inputs.sum())
    for name, pack in PACKINGS.items():
        if name in COMPARED and name != own and tokens * len(lengths) > MOST_COMPARED:
            lines.append((name, *("not tried: slow" for _ in lengths)))
            continue
        found = [pack(text, length, np.random.default_rng(seed)) for length in lengths]
        lines.append((name, *(f"{one.waste:.2%} / {one.left_out / max(tokens, 1):.2%}" for one in found)))
    return lines


def as_text(row: dict[str, np.ndarray], tokenizer) -> str:
    """The pieces of a row, one after another; targets that do not count in the loss stand in brackets."""
    pieces = []
    for segment in range(1, int(row["segments"].max(initial=0)) + 1):
        at = np.flatnonzero(row["segments"] == segment)
        counts = row["weights"][at] > 0
        changes = np.flatnonzero(np.diff(counts)) + 1
        parts = [
            ("{}" if counts[part[0]] else "[{}]").format(tokenizer.decode(row["targets"][at[part]]))
            for part in np.split(np.arange(len(at)), changes)
        ]
        pieces.append("".join(parts))
    return " || ".join(pieces)


def main(argv) -> None:
    config, workdir, _ = configs.for_training(argv)
    places.check_folder("--workdir", workdir)
    corpus, tokenizer, stages = checks.check(configs.stand_in(config))
    checks.require_text(config, corpus)
    for line in corpus.notes:
        print(line)
    table = rows.tokenize(corpus.train, tokenizer)
    quantiles = ", ".join(
        f"{word} {value:,.0f}"
        for word, value in zip(("median", "90%", "longest"), np.quantile(table.inputs, (0.5, 0.9, 1)), strict=True)
    )
    print(
        f"{len(corpus.train):,} documents with {table.inputs.sum():,} tokens ({quantiles}), "
        f"{len(corpus.held_out):,} held out\n"
    )
    names = generated.source_names(config.data)
    of = [pipeline.stage_rows(table, corpus.train, tokenizer, stage, config.data, config.seed) for stage in stages]
    lines = [line for stage, made in zip(stages, of, strict=True) for line in fed(stage, names, made)]
    print(console.table(("stage", "length", "source", "rows", "tokens fed", "epochs", "padding", "left out"), lines))
    lengths = sorted({stage.seq_len for stage in stages})
    print("\npadding / text left out, by packing and length (this run: " + config.data.packing + ")\n")
    columns = "packing", *(f"{length:,}" for length in lengths)
    print(console.table(columns, packed(table, lengths, config.seed, config.data.packing)))
    first = next(pipeline.BatchStream(of[0], stages[0], config.seed, prefetch=0))
    show_rows(first, tokenizer)

    from experiments.pictures import feed

    workdir.mkdir(parents=True, exist_ok=True)
    feed.feed(config, stages, first).savefig(workdir / "data.png", dpi=200)
    print(f"\nsaved: {workdir / 'data.png'}")


def show_rows(batch: dict[str, np.ndarray], tokenizer) -> None:
    """Prints the first rows of a batch as text."""
    for number in range(min(ROWS, len(batch["tokens"]))):
        row = {name: array[number] for name, array in batch.items()}
        sizes, text = ", ".join(map(str, np.bincount(row["segments"])[1:])), as_text(row, tokenizer)
        print(f"\nrow {number + 1}: documents of {sizes} tokens, {int((row['weights'] > 0).sum()):,} count in the loss")
        print(text[:SHOWN] + ("..." if len(text) > SHOWN else ""))


if __name__ == "__main__":
    command.run(main)
