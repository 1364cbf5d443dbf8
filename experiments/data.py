"""Shows what a config feeds to a model, and trains nothing: sources, rows, what is left out, what counts in the loss.

    python -m experiments.data --config FILE [--config.field=value ...] [--workdir DIR]

Reads and tokenises the text as experiments.train would. Prints documents and tokens; for each stage and source the
rows, the tokens that a run is fed and how often it sees them; where stages[i].order is set, the steps of each length of
documents; what every way of packing (data.packing) would waste; and the first rows of the run as text, with what does
not count in the loss in brackets. Saves data.png in --workdir: which tokens of a row see which, and the schedule over
the steps.
"""

import itertools
from collections.abc import Mapping

import numpy as np

from experiments.run import checks, command
from experiments.settings import config as configs
from experiments.settings import console, places
from longctx.data import orders, pipeline, texts
from longctx.data.curriculum import Stage
from longctx.data.generated import api as generated
from longctx.data.mixture import Mixture, Repeated
from longctx.data.packing.api import COMPARED, PACKINGS
from longctx.data.rows import PackedRows, TokenTable
from longctx.data.texts import Text

ROWS, SHOWN = 3, 400  # rows that are shown as text, and characters of each
MOST_COMPARED = 10_000_000  # tokens: packings that compare all of them take up to ten seconds for so many


def described(name: str, text: Text) -> tuple:
    """A line of the table of sources: how many documents and tokens, and how long documents are."""
    inputs = text.table.inputs
    quantiles = np.quantile(inputs, (0.5, 0.9, 1)) if len(inputs) else np.zeros(3)
    return name, f"{len(inputs):,}", f"{inputs.sum():,}", *(f"{value:,.0f}" for value in quantiles)


def fed(stage: Stage, names: tuple[str, ...], mixture: Mixture) -> list[tuple]:
    """A line of the table for each source of a stage."""
    passes, lines = stage.steps * stage.batch_size / max(len(mixture), 1), []
    for name, source in zip(names, mixture.sources, strict=True):
        tokens = len(source) * stage.seq_len * (1 - source.waste) * passes
        lines.append(
            (
                stage.index + 1,
                f"{stage.seq_len:,}",
                name,
                f"{len(source):,}",
                f"{tokens:,.0f}",
                f"{passes * getattr(source, 'epochs', 1):.3g}",
                f"{source.waste:.2%}",
                f"{source.left_out:,}",
            )
        )
    return lines


def in_order(stage: Stage, ordered: orders.Ordered) -> list[tuple]:
    """A line for each length of documents of a stage that has an order: its rows, its steps and when they are."""
    lines = []
    for bucket, (members, power) in enumerate(zip(ordered.members, ordered.powers.tolist(), strict=True)):
        at = stage.first_step + np.flatnonzero(ordered.buckets == bucket)
        when = [f"{value:,.0f}" for value in np.quantile(at, (0, 0.5, 1))] if len(at) else ["-"] * 3
        epochs = len(at) * ordered.batch / len(members)
        lines.append((stage.index + 1, f"{2**power:,}", f"{len(members):,}", f"{len(at):,}", f"{epochs:.3g}", *when))
    return lines


def packed(name: str, text: Text, tables: Mapping[int, TokenTable], seed: int) -> list[tuple]:
    """A line for each way of packing a source: padding at each length, and the share of it that is left out.

    tables: at each length, the documents after data.too_long. Ways that are not the source's own, and that take long
    for so much text, are left out, as a line says.
    """
    tokens, lines = int(text.table.inputs.sum()), []
    for way, pack in PACKINGS.items():
        if way in COMPARED and way != text.packing and tokens * len(tables) > MOST_COMPARED:
            lines.append((name, way, *("not tried: slow" for _ in tables)))
            continue
        found = [pack(table, length, np.random.default_rng(seed)) for length, table in tables.items()]
        chosen = way + (" *" if way == text.packing else "")
        lines.append((name, chosen, *(f"{one.waste:.2%} / {one.left_out / max(tokens, 1):.2%}" for one in found)))
    return lines


def of_text(mixture: Mixture) -> list[PackedRows]:
    """The rows of each source of text, before they are repeated."""
    sources = (source.rows if isinstance(source, Repeated) else source for source in mixture.sources)
    return [source for source in sources if isinstance(source, PackedRows)]


def as_text(row: dict[str, np.ndarray], tokenizer) -> str:
    """The pieces of a row, one after another; targets that do not count in the loss stand in brackets."""
    pieces = []
    for segment in range(1, int(row["segments"].max(initial=0)) + 1):
        at = np.flatnonzero(row["segments"] == segment)
        counts = row["weights"][at] > 0
        changes = np.flatnonzero(np.diff(counts)) + 1
        parts = [
            ("{}" if counts[part[0]] else "[{}]").format(spelled(row["targets"][at[part]], tokenizer))
            for part in np.split(np.arange(len(at)), changes)
        ]
        pieces.append("".join(parts))
    return " || ".join(pieces)


def spelled(ids: np.ndarray, tokenizer) -> str:
    """The text of ids, with the names of special tokens, which decode() leaves out."""
    writes = np.array([tokenizer.writes(int(token)) for token in ids])
    runs = np.split(np.arange(len(ids)), np.flatnonzero(np.diff(writes)) + 1)
    names = lambda run: b"".join(tokenizer.spelling(int(token)) for token in ids[run]).decode(errors="replace")
    return "".join(tokenizer.decode(ids[run]) if writes[run[0]] else names(run) for run in runs)


def main(argv) -> None:
    config, workdir, _ = configs.for_training(argv)
    places.check_folder("--workdir", workdir)
    corpora, tokenizer, stages, _ = checks.check(configs.stand_in(config))
    checks.require_text(config, corpora)
    text = texts.tokenize(corpora, config.data, tokenizer)
    print(*corpora.notes, *text.notes, sep="\n")
    print(f"{len(corpora.held_out):,} documents held out\n")
    columns = "source", "documents", "tokens", "median", "90%", "longest"
    print(console.table(columns, [described(name, one) for name, one in text.of.items()]))
    names = generated.source_names(config.data)
    of = [pipeline.stage_rows(text, tokenizer, stage, config.data, config.seed) for stage in stages]
    lines = [line for stage, made in zip(stages, of, strict=True) for line in fed(stage, names, made)]
    columns = "stage", "length", "source", "rows", "tokens fed", "epochs", "padding", "left out"
    print("", console.table(columns, lines), sep="\n")
    order = [pipeline.ordered(made, stage, config.seed) for made, stage in zip(of, stages, strict=True)]
    if lines := [line for stage, one in zip(stages, order, strict=True) if one for line in in_order(stage, one)]:
        columns = "stage", "documents from", "rows", "steps", "epochs", "first step", "median", "last"
        print("", console.table(columns, lines), sep="\n")
    by_length = {stage.seq_len: of_text(made) for stage, made in zip(stages, of, strict=True)}
    lengths = sorted(by_length)
    print("\npadding / text left out, by packing and length (*: of this run)\n")
    columns = "source", "packing", *(f"{length:,}" for length in lengths)
    lines = []
    for i, (name, one) in enumerate(text.of.items()):
        lines += packed(name, one, {length: by_length[length][i].table for length in lengths}, config.seed)
    print(console.table(columns, lines))
    for (i, name), length in itertools.product(enumerate(text.of), lengths):
        dropped = by_length[length][i].dropped
        if dropped.tokens:
            print(
                f"\ndata.too_long={config.data.too_long!r}, {name} at {length:,}: {dropped.documents:,} documents "
                f"left out, {dropped.tokens:,} tokens of them and of those that are shortened"
            )
    first = next(pipeline.BatchStream(of[0], stages[0], config.seed, prefetch=0))
    show_rows(first, tokenizer)

    from experiments.pictures import feed

    workdir.mkdir(parents=True, exist_ok=True)
    feed.feed(config, stages, first, [one and one.tokens for one in order]).savefig(workdir / "data.png", dpi=200)
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
