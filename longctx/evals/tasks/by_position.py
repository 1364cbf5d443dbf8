"""Loss by position in the context: a model that uses what it has read predicts later tokens better."""

import math
from collections.abc import Sequence

import numpy as np

from longctx.data.tokenizers import Tokenizer
from longctx.evals import batches, drawing, results
from longctx.evals.by_row import Counts, Rows, Summary
from longctx.evals.task import Task

ERRORS = {"loss": "error", "bits": "bits_error"}
FIRST_BUCKET = 8  # positions below this form one bucket; then there are two buckets per octave


def bucket_edges(length: int) -> list[int]:
    """Edges of log-spaced buckets over positions [0, length)."""
    edges = [0]
    while (edge := round(FIRST_BUCKET * 2 ** ((len(edges) - 1) / 2))) < length:
        edges.append(edge)
    return [*edges, length]


def run(predictor, documents, tokenizer, config, lengths, seed) -> dict:
    """Mean loss in nats per token by position, at each length; standard errors are over documents.

    Position p has seen p + 1 tokens. `edges[i] <= p < edges[i + 1]` is bucket i of `loss` and `error`, and of `bits`
    and `bits_error`: the same loss by the bytes of text that the tokens stand for, so that models with other tokenizers
    compare. An end marker is no text, and counts in `loss` alone.
    """
    chosen = batches.long_documents(documents, tokenizer, lengths, config.documents, seed)
    return {
        "what": "mean loss of held-out text by position in the context",
        "units": {
            "edges": "tokens",
            "loss": "nats per token",
            "error": "nats per token, standard error over documents",
            "mean": "nats per token",
            "bits": "bits per byte",
            "bits_error": "bits per byte, standard error over documents",
            "bits_per_byte": "bits per byte",
        },
        "lengths": [_at_length(predictor, chosen[length], tokenizer, length, seed) for length in lengths],
    }


def _at_length(predictor, documents, tokenizer, length, seed) -> dict:
    if not documents:
        return {"length": length, "documents": 0, "windows": 0, "reason": batches.NONE_LONG_ENOUGH}
    rng = np.random.default_rng([seed, length])
    cuts = [batches.window_ends(document, length, rng) for document in documents]
    rows = [
        [batches.last_tokens(document.ids, end, length, tokenizer.bos)]
        for document, ends in zip(documents, cuts, strict=True)
        for end in ends
    ]
    nll = np.stack([found.nll for (found,) in batches.score(predictor, rows, length, tokenizer.pad)])
    by_document, nats, sizes = _by_document(documents, cuts, nll)
    edges = bucket_edges(length)
    buckets = [slice(*pair) for pair in zip(edges, edges[1:], strict=False)]
    losses = [batches.mean_and_error(by_document[:, bucket].mean(axis=1)) for bucket in buckets]
    bits = [batches.bits_per_byte(nats[:, bucket].sum(axis=1), sizes[:, bucket].sum(axis=1)) for bucket in buckets]
    mean, error = batches.mean_and_error(by_document.mean(axis=1))
    per_byte, per_byte_error = batches.bits_per_byte(nats.sum(axis=1), sizes.sum(axis=1))
    return {
        "length": length,
        "documents": len(documents),
        "windows": len(rows),
        "mean": mean,
        "mean_error": error,
        "bits_per_byte": per_byte,
        "bits_per_byte_error": per_byte_error,
        "edges": edges,
        "loss": [loss for loss, _ in losses],
        "error": [error for _, error in losses],
        "bits": [value for value, _ in bits],
        "bits_error": [error for _, error in bits],
    }


def _by_document(documents, cuts, nll: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over each document's windows, [documents, length]: the loss; that of text alone; the bytes of that text.

    cuts: the ends of each document's windows. nll: [windows, length].
    """
    losses, rows = np.zeros((3, len(cuts), nll.shape[1])), iter(nll)
    for i, (document, ends) in enumerate(zip(documents, cuts, strict=True)):
        sizes, of_text = document.bytes, document.of_text
        for end in ends:
            row, own = next(rows), slice(end - nll.shape[1], end)
            losses[:, i] += np.stack([row, np.where(of_text[own], row, 0.0), sizes[own]]) / len(ends)
    return losses[0], losses[1], losses[2]


class Losses:
    """Held-out loss by position, a window of a document per row: see longctx.evals.by_row.RowTask.

    number: the documents at each length, or as many as are that long. Counted of each window: the number of its
    document, its mean loss, and the mean loss in each bucket of `bucket_edges`.
    """

    what = "loss of held-out text, nats per token"
    chance = None
    why_none = batches.NONE_LONG_ENOUGH

    def __init__(self, documents: Sequence, tokenizer: Tokenizer, number: int, seed: int):
        self.documents, self.tokenizer, self.number, self.seed = documents, tokenizer, number, seed
        self._cut: dict[int, list[tuple[int, batches.Piece]]] = {}  # by length: a window's document, and its piece

    def count(self, length: int) -> int:
        """See RowTask."""
        return len(self._windows(length))

    def rows(self, length: int, numbers: range) -> Rows:
        """See RowTask."""
        chosen, edges = [self._windows(length)[number] for number in numbers], bucket_edges(length)

        def counted(prediction: batches.Prediction) -> Counts:
            nll = np.asarray(prediction.nll, np.float64)
            buckets = np.add.reduceat(nll, edges[:-1], axis=1) / np.diff(edges)
            rounded = lambda values: [batches.number(value) for value in values]
            of = {"document": [document for document, _ in chosen], "mean": rounded(nll.mean(axis=1))}
            return of | {"loss": list(map(rounded, buckets))}

        return Rows(batches.batch([[piece] for _, piece in chosen], length, self.tokenizer.pad), counted)

    def merged(self, parts: list[Counts]) -> Counts:
        """See RowTask."""
        return {name: [row for part in parts for row in part[name]] for name in parts[0]}

    def summary(self, counts: Counts) -> Summary:
        """The mean over documents of all tokens; its interval is two standard errors over documents."""
        means, documents = np.array(counts["mean"], float), np.array(counts["document"])
        several = np.unique(documents)
        mean, error = batches.mean_and_error([means[documents == i].mean() for i in several])
        if mean is None:
            return Summary(None, None, None, "a loss that is not finite")
        known = error is not None
        bounds = (batches.number(mean - 2 * error), batches.number(mean + 2 * error)) if known else (None, None)
        spread = f" +- {error:.3f}" if known else ""
        return Summary(mean, *bounds, f"{mean:.3f}{spread} nats over {len(several)} documents")

    def _windows(self, length: int) -> list[tuple[int, batches.Piece]]:
        if length not in self._cut:
            chosen = batches.long_documents(self.documents, self.tokenizer, (length,), self.number, self.seed)[length]
            rng = np.random.default_rng([self.seed, length])
            cuts = [batches.windows(document, length, self.tokenizer.bos, rng) for document in chosen]
            self._cut[length] = [(i, piece) for i, cut in enumerate(cuts) for piece in cut]
        return self._cut[length]


def finding(result: dict, trained: int) -> str:
    """The loss early and late in the context, at the longest length trained at."""
    return results.finding_by_length(result, "loss", trained, _finding)


def _finding(record: dict) -> str:
    edges, loss = np.array(record["edges"]), drawing.numbers(record["loss"])
    early = int(np.searchsorted(edges, 64)) if edges[-1] > 128 else 0
    early = min(early, len(loss) - 1)
    bits = record["bits_per_byte"] if record.get("bits") else None  # older results lack the means of a position
    by_byte = "" if bits is None else f"; {bits:.3f} bits per byte"
    return (
        f"At {record['length']:,} tokens: {loss[early]:.3f} nats around position {edges[early]:,}, "
        f"{loss[-1]:.3f} from {edges[-2]:,} on ({record['documents']} documents){by_byte}."
    )


def headline(result: dict, trained: int) -> str:
    """The mean loss at the longest length trained at."""
    record = results.at_longest(result, "loss", trained)
    if record is None or record.get("mean") is None:
        return ""
    return f"held-out loss {record['mean']:.3f} at {record['length']:,} tokens"


@drawing.style
def figure(result: dict, lengths: list[int], trained: int):
    """Held-out loss by position in the context, a line per length; bands are one standard error. None without any.

    Where tokens are no bytes, a second picture beside it has the loss in bits per byte.
    """
    if not (records := results.measured(result, "loss")):
        return None
    by_byte = all(map(_has_bits, records))
    figure, axes = drawing.new_figure(1 + by_byte)
    panels = list(zip(np.atleast_1d(axes), ("loss", "bits"), ("nats per token", "bits per byte"), strict=False))
    for panel, name, unit in panels:
        _draw(panel, records, name, lengths, trained)
        panel.set(xlabel="position in the context (tokens)", ylabel=f"held-out loss ({unit})")
    panels[0][0].legend(title="context length")
    return figure


def _has_bits(record: dict) -> bool:
    """Whether a record says bits per byte, and they are more than another unit of the loss per token."""
    bits, mean = record.get("bits_per_byte"), record.get("mean")
    return bool(record.get("bits") and bits and mean and not math.isclose(bits, mean / math.log(2), rel_tol=0.01))


def _draw(axes, records: list[dict], name: str, lengths: list[int], trained: int) -> None:
    """The lines of a loss, "loss" or "bits", with their errors."""
    ends = []
    for record in records:
        edges = np.array(record["edges"], np.float64)
        keep = edges[1:] > 16  # the very first tokens would set the scale
        centre = np.sqrt(np.maximum(edges[:-1], 1) * edges[1:])[keep]
        values, errors = (drawing.numbers(record[key])[keep] for key in (name, ERRORS[name]))
        drawing.band(axes, centre, values, np.nan_to_num(errors), **drawing.line_of(record["length"], lengths, trained))
        ends += [int(edges[1]), record["length"]]
    drawing.length_axis(axes.xaxis, ends)


_FORM = {"documents": int, "edges": [int], "loss": [results.NUMBER], "error": [results.NUMBER]}


def is_result(result: dict) -> bool:
    """Whether a stored dict is what `run` returns."""
    return results.is_by_length(
        result, "loss", _FORM, lambda record: len(record["edges"]) - 1 == len(record["loss"]) == len(record["error"])
    ) and all(_are_bits(record) for record in results.measured(result, "loss") if record.get("bits"))


def _are_bits(record: dict) -> bool:
    """Whether the bits per byte of a stored record, which older ones lack, are as `run` writes them."""
    form = dict.fromkeys(("mean", "bits_per_byte"), results.NUMBER)
    form |= dict.fromkeys(("bits", "bits_error"), [results.NUMBER])
    return results.fits(record, form) and len(record["bits"]) == len(record["bits_error"]) == len(record["loss"])


TASK = Task(
    run,
    title="Loss by position in the context",
    caption="Held-out text. Falling to the right = the model uses what it has read. Bands: one standard error.",
    finding=finding,
    figure=figure,
    is_result=is_result,
    lengths=results.lengths,
    headline=headline,
)
