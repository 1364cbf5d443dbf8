"""Perplexity by windows that slide over a text. Every token counts once, whatever the window W and the stride S are.

sliding    windows start every S tokens, and only the tokens that no window before has read count: all of the first, at
           most S of each other, which then have at least W - S tokens before them. The last window ends with the text.
           This is the recipe of Hugging Face's documentation of perplexity.
rolling    the windows of lm-evaluation-harness: S = W, and the last starts earlier, to be as long as the others.

A window begins with the token that is there; only the first begins with the start marker.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from longctx.config import EvalConfig
from longctx.errors import UserError, unknown_name
from longctx.evals import batches, drawing, results
from longctx.evals.batches import LongDocument, Piece
from longctx.evals.task import Task, anything

LEAST_READ = 8192  # tokens of a document, where the settings do not say


class Window(NamedTuple):
    """Targets `start` to `end` - 1 of a text are read together; those from `first` on count."""

    start: int
    end: int
    first: int


def sliding(targets: int, window: int, stride: int) -> list[Window]:
    """Windows that start every `stride` targets, up to the one that ends with the text."""
    starts = range(0, max(targets - window, 0) + stride, stride)
    ends = [min(start + window, targets) for start in starts]
    return [Window(*each) for each in zip(starts, ends, [0, *ends], strict=False)]


def rolling(targets: int, window: int, stride: int) -> list[Window]:
    """Windows side by side, the last moved back to be as long as the others."""
    firsts = range(0, targets, window)
    return [Window(max(end - window, 0), end, first) for first in firsts for end in [min(first + window, targets)]]


WINDOWS: Mapping[str, Callable[[int, int, int], list[Window]]] = {"sliding": sliding, "rolling": rolling}


def check(config: EvalConfig) -> None:
    """Raises UserError for an unknown name; where the task is asked for, too, for what does not go with the windows."""
    if config.windows not in WINDOWS:
        raise unknown_name("eval.windows", config.windows, WINDOWS)
    if "sliding_window" not in config.tasks:
        return
    if config.windows == "rolling" and config.stride:
        raise UserError(f"eval.stride={config.stride} has no effect: eval.windows='rolling' moves by a whole window.")
    for length in config.lengths:
        if why := why_not(config, length):
            raise UserError(f"eval.lengths={config.lengths}: {why}.")


def why_not(config: EvalConfig, window: int) -> str:
    """The reason why a window, in tokens, cannot slide as the settings say; "" where it can."""
    if config.stride > window:
        return f"eval.stride={config.stride} leaves out tokens between windows of {window:,}; at most that works"
    if 0 < config.document_tokens < window:
        return f"eval.document_tokens={config.document_tokens} are fewer than a window of {window:,}; 0 works"
    return ""


def run(predictor, documents, tokenizer, config, lengths, seed) -> dict:
    """The loss of the first tokens of documents by windows of each length, W; errors are over documents.

    loss, error           nats per token, all tokens alike
    perplexity            exp(loss)
    bits_per_byte, ...    the loss of what is text (no end marker) by its bytes: comparable across tokenizers
    tokens                how many count, the same at every W for the same documents
    """
    chosen = batches.long_documents(documents, tokenizer, lengths, config.documents, seed)
    read = config.document_tokens or max(LEAST_READ, 2 * max(lengths))
    return {
        "what": f"loss of held-out text by windows, {config.windows}",
        "units": {
            "length": "tokens of a window (W)",
            "stride": "tokens from a window to the next (S)",
            "loss": "nats per token",
            "error": "nats per token, standard error over documents",
            "perplexity": "exp of the loss",
            "bits_per_byte": "bits per byte of text",
            "bits_per_byte_error": "bits per byte, standard error over documents",
        },
        "windows": config.windows,
        "lengths": [_at_length(predictor, chosen[length], tokenizer, config, length, read) for length in lengths],
    }


def _at_length(predictor, documents, tokenizer, config, length: int, read: int) -> dict:
    stride = length if config.windows == "rolling" else config.stride or max(1, length // 2)
    known = {"length": length, "stride": stride, "documents": len(documents)}
    if reason := why_not(config, length) or ("" if documents else batches.NONE_LONG_ENOUGH):
        return known | {"reason": reason}
    cuts = [WINDOWS[config.windows](min(document.targets, read), length, stride) for document in documents]
    rows = [[_piece(document, window)] for document, cut in zip(documents, cuts, strict=True) for window in cut]
    scored = iter(batches.score(predictor, rows, length, tokenizer.pad))
    nll = [np.concatenate([next(scored)[0].nll[w.first - w.start :] for w in cut]) for cut in cuts]
    tokens = [len(own) for own in nll]
    loss, error = batches.ratio_and_error([own.sum() for own in nll], tokens)
    bits, bits_error = batches.bits_per_byte(*zip(*map(of_text, documents, nll), strict=True))
    return known | {
        "rows": len(rows),
        "tokens": sum(tokens),
        "loss": loss,
        "error": error,
        "perplexity": batches.perplexity(loss),
        "bits_per_byte": bits,
        "bits_per_byte_error": bits_error,
    }


def _piece(document: LongDocument, window: Window) -> Piece:
    """The text of a window, with its own first token."""
    ids, asked = document.ids, np.arange(window.first - window.end, 0)
    return Piece(ids[window.start : window.end], ids[window.start + 1 : window.end + 1], asked)


def of_text(document: LongDocument, nll: np.ndarray) -> tuple[float, int]:
    """(the loss of the first targets of a document in nats, that of what is text alone; the bytes of that text)."""
    counted = document.of_text[: len(nll)]
    return float(nll[counted].sum()), int(document.bytes[: len(nll)].sum())


def finding(result: dict, trained: int) -> str:
    """The perplexity at the longest window trained at, with the window and the stride."""
    return results.finding_by_length(result, "tokens", trained, lambda record: _finding(record, result["windows"]))


def _finding(record: dict, windows: str) -> str:
    said = f"{windows} windows, {_named(record)}"
    if record["loss"] is None or record["perplexity"] is None:
        return f"The loss is not finite ({said})."
    spread = "" if record["error"] is None else f" ± {record['error']:.3f}"
    bits = "" if record["bits_per_byte"] is None else f", {record['bits_per_byte']:.3f} bits per byte"
    return (
        f"Perplexity {record['perplexity']:.4g} ({said}): {record['loss']:.3f}{spread} nats per token{bits} "
        f"({record['documents']} documents)."
    )


def _named(record: dict) -> str:
    return f"W = {record['length']:,}, S = {record['stride']:,}"


def headline(result: dict, trained: int) -> str:
    """The perplexity at the longest window trained at."""
    record = results.at_longest(result, "tokens", trained)
    if record is None or record["perplexity"] is None:
        return ""
    return f"perplexity {record['perplexity']:.4g} ({_named(record)})"


@drawing.style
def figure(result: dict, lengths: list[int], trained: int):
    """The loss by window, a point per window with one standard error; None where nothing was measured."""
    if not (records := results.measured(result, "tokens")):
        return None
    figure, axes = drawing.new_figure()
    for record in records:
        line = drawing.line_of(record["length"], lengths, trained)
        beyond = " (beyond training)" if record["length"] > trained else ""
        line |= {"linestyle": "none", "label": _named(record) + beyond}
        value, error = drawing.numbers([record["loss"], record["error"]])
        axes.errorbar([record["length"]], [value], [np.nan_to_num(error)], capsize=2, elinewidth=1, **line)
    drawing.length_axis(axes.xaxis, [record["length"] for record in records])
    axes.set(xlabel=f"window W (tokens), {result['windows']}", ylabel="held-out loss (nats per token)")
    axes.legend(title="window and stride")
    return figure


_FORM = {"stride": int, "documents": int, "tokens": int} | dict.fromkeys(
    ("loss", "error", "perplexity", "bits_per_byte"), results.NUMBER
)


def is_result(result: dict) -> bool:
    """Whether a stored dict is what `run` returns."""
    return results.fits(result, {"windows": str}) and results.is_by_length(result, "tokens", _FORM, anything)


TASK = Task(
    run,
    title="Perplexity by sliding windows",
    caption="Held-out text, each token counted once. Lower = better; W: window, S: stride. Bars: one standard error.",
    finding=finding,
    figure=figure,
    is_result=is_result,
    lengths=results.lengths,
    headline=headline,
    by_request=True,
)
