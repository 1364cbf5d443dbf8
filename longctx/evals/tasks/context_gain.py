"""The worth of context: the loss of one set of tokens, read with less and with more of the text before them."""

import numpy as np

from longctx.evals import batches, drawing, results
from longctx.evals.task import Task

SHORTEST = 128  # tokens of the shortest context, where the length allows it


def contexts_at(length: int) -> list[int]:
    """Context sizes in tokens, halving from `length` down to SHORTEST (at least two of them): increasing."""
    contexts = [length]
    while contexts[0] // 2 >= SHORTEST or len(contexts) < 2:
        contexts.insert(0, contexts[0] // 2)
    return contexts


def run(predictor, documents, tokenizer, config, lengths, seed) -> dict:
    """The gain from context by length: gain[i] = loss(contexts[i]) - loss(full context) on one set of tokens, in nats
    per token.

    The scored tokens are the last ones of a window, half as many as the shortest context holds; a context of c tokens
    is the last c of that window. Only this comparison is fair across lengths: the text that is scored never changes.
    """
    chosen = batches.long_documents(documents, tokenizer, lengths, config.documents, seed)
    return {
        "what": "loss of the same held-out tokens with a short context minus with the full one",
        "units": {
            "contexts": "tokens",
            "scored": "tokens per window",
            "loss": "nats per token",
            "gain": "nats per token",
            "error": "nats per token, standard error of the gain over documents",
        },
        "lengths": [_at_length(predictor, chosen[length], tokenizer, length, seed) for length in lengths],
    }


def _at_length(predictor, documents, tokenizer, length, seed) -> dict:
    contexts = contexts_at(length)
    scored = contexts[0] // 2
    if not documents or not scored:
        reason = "the context is too short to halve" if documents else batches.NONE_LONG_ENOUGH
        return {"length": length, "documents": 0, "windows": 0, "reason": reason}
    rng = np.random.default_rng([seed, length])
    cuts = [batches.windows(document, length, tokenizer.bos, rng) for document in documents]
    rows = [row for cut in cuts for full in cut for row in _rows(full, contexts, scored, tokenizer.bos)]
    predictions = iter(batches.score(predictor, rows, length, tokenizer.pad))
    by_document = []  # [documents, contexts]
    for cut in cuts:
        per_window = [next(predictions) + next(predictions) for _ in cut]  # short contexts, then the full one
        by_document.append(np.mean([[p.nll[-scored:].mean() for p in window] for window in per_window], axis=0))
    loss = np.stack(by_document)
    gains = [batches.mean_and_error(column) for column in (loss - loss[:, -1:]).T]
    return {
        "length": length,
        "documents": len(documents),
        "windows": len(rows) // 2,
        "scored": scored,
        "contexts": contexts,
        "loss": [batches.number(value) for value in loss.mean(axis=0)],
        "gain": [gain for gain, _ in gains],
        "error": [error for _, error in gains],
    }


def _rows(full: batches.Piece, contexts: list[int], scored: int, bos: int) -> tuple[list, list]:
    """All shorter contexts fit in one row, as separate documents: 1/2 + 1/4 + ... < 1."""
    ids, asked = np.append(full.inputs, full.targets[-1]), np.arange(-scored, 0)
    short = [batches.last_tokens(ids, len(full.inputs), context, bos) for context in contexts[:-1]]
    return [piece._replace(asked=asked) for piece in short], [full._replace(asked=asked)]


def finding(result: dict, trained: int) -> str:
    """The worth of the full context against the shortest, at the longest length trained at."""
    return results.finding_by_length(result, "gain", trained, _finding)


def _finding(record: dict) -> str:
    gain, error = record["gain"][0], record["error"][0]
    if gain is None:
        return "The loss is not finite."
    spread = "" if error is None else f" ± {error:.3f}"
    return (
        f"Reading {record['length']:,} tokens instead of {record['contexts'][0]:,} is worth {gain:.3f}{spread} "
        f"nats per token ({record['documents']} documents)."
    )


def headline(result: dict, trained: int) -> str:
    """The worth of the full context at the longest length trained at."""
    record = results.at_longest(result, "gain", trained)
    return "" if record is None or record["gain"][0] is None else f"context gain {record['gain'][0]:.3f} nats"


@drawing.style
def figure(result: dict, lengths: list[int], trained: int):
    """Loss with a shortened context minus with the full one, on the same tokens; bars are one standard error."""
    if not (records := results.measured(result, "gain")):
        return None
    figure, axes = drawing.new_figure()
    contexts = []
    for record in records:
        gain, error = drawing.numbers(record["gain"]), np.nan_to_num(drawing.numbers(record["error"]))
        line = drawing.line_of(record["length"], lengths, trained)
        axes.errorbar(record["contexts"], gain, error, capsize=2, elinewidth=1, **line)
        contexts += record["contexts"]
    axes.axhline(0, color=drawing.MUTED, linewidth=1)
    drawing.length_axis(axes.xaxis, contexts)
    axes.set(xlabel="context given (tokens)", ylabel="loss above full context (nats per token)")
    axes.legend(title="full context")
    return figure


_FORM = {"documents": int, "contexts": [int], "gain": [results.NUMBER], "error": [results.NUMBER]}


def is_result(result: dict) -> bool:
    """Whether a stored dict is what `run` returns."""
    return results.is_by_length(
        result, "gain", _FORM, lambda record: len(record["contexts"]) == len(record["gain"]) == len(record["error"])
    )


TASK = Task(
    run,
    title="What context is worth",
    caption="The same tokens, predicted from less text. Height = what missing context costs; zero = it did not help.",
    finding=finding,
    figure=figure,
    is_result=is_result,
    lengths=results.lengths,
    headline=headline,
)
