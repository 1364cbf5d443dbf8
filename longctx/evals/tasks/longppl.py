"""LongPPL (arXiv 2410.23771): perplexity of key tokens alone, those that a long context makes far easier to predict.

An evaluator finds the key tokens, see longctx/evals/key_tokens.py: a model of Hugging Face (eval.evaluator), the same
for all models that are to be compared. Where there is none the model finds them itself, which is circular: a model then
chooses the tokens that it gets right, and results say so.
"""

import numpy as np

from longctx.errors import UserError
from longctx.evals import batches, drawing, key_tokens, results
from longctx.evals.batches import LongDocument, Piece
from longctx.evals.key_tokens import Evaluator
from longctx.evals.task import Task, anything


def run(predictor, documents, tokenizer, config, lengths, seed) -> dict:
    """LongPPL of the first tokens of documents, as many as each length says.

    longppl        mean over documents of exp(mean loss of a document's key tokens), weighted by how many it has
    perplexity     the same of all tokens
    loss, error    nats per key token, all alike, and the standard error over documents
    all_loss       nats per token, over all tokens
    key_tokens     how many there are, of `tokens`

    K is eval.key_context, S is eval.key_stride: see key_tokens.find. A document starts with the start marker, as
    everywhere here; the published code gives the model that is measured none.
    """
    judge = key_tokens.load(config.evaluator, predictor.mesh) if config.evaluator else own_judge(predictor, tokenizer)
    chosen = batches.long_documents(documents, tokenizer, lengths, config.documents, seed)
    return {
        "what": "perplexity of the tokens that a long context makes far easier to predict",
        "units": {
            "longppl": "exp of nats per key token",
            "perplexity": "exp of nats per token",
            "loss": "nats per key token",
            "error": "nats per key token, standard error over documents",
            "all_loss": "nats per token",
            "context": "tokens of the short context (K)",
            "stride": "tokens that share one (S)",
        },
        "evaluator": judge.name,
        "context": config.key_context,
        "stride": config.key_stride,
        "lengths": [at_length(predictor, chosen[length], tokenizer, judge, config, length) for length in lengths],
    }


def own_judge(predictor, tokenizer) -> Evaluator:
    """The model itself as its evaluator."""
    return Evaluator(key_tokens.SELF, predictor, tokenizer)


def at_length(predictor, documents, tokenizer, judge: Evaluator, config, length: int) -> dict:
    """The record of a length, in tokens of the model that is measured."""
    known = {"length": length, "documents": len(documents)}
    if length <= config.key_context:
        return known | {"reason": f"the short context is as long, eval.key_context={config.key_context:,}"}
    if not documents:
        return known | {"reason": batches.NONE_LONG_ENOUGH}
    sizes = [min(length, document.targets - 1) for document in documents]  # an end marker is no text
    try:
        texts = [_text(document, size) for document, size in zip(documents, sizes, strict=True)]
        found = key_tokens.find(judge, texts, config.key_context, config.key_stride)
    except UserError as error:
        return known | {"reason": str(error).rstrip(".")}
    keys = [
        key_tokens.inside(document.spans[:size], stretches)
        for document, size, stretches in zip(documents, sizes, found, strict=True)
    ]
    if not any(key.any() for key in keys):
        return known | {"reason": f"no key token in {len(documents)} documents, by {judge.name}"}
    rows = [[Piece(document.ids[:n], document.ids[1 : n + 1])] for document, n in zip(documents, sizes, strict=True)]
    nll = [found.nll for (found,) in batches.score(predictor, rows, length, tokenizer.pad)]
    return known | _measures(nll, keys)


def _text(document: LongDocument, size: int) -> bytes:
    """The text of the first targets, up to the last whole character."""
    end = int(document.ends[size - 1])
    while end < len(document.text) and document.text[end] & 0xC0 == 0x80:  # inside of a character of UTF-8
        end -= 1
    return document.text[:end]


def _measures(nll: list[np.ndarray], keys: list[np.ndarray]) -> dict:
    """What `run` says of a length. nll, keys: of each document, the loss of its tokens, and whether they are key."""
    of_keys = [loss[key] for loss, key in zip(nll, keys, strict=True)]
    loss, error = batches.ratio_and_error([own.sum() for own in of_keys], [len(own) for own in of_keys])
    all_loss, _ = batches.ratio_and_error([own.sum() for own in nll], [len(own) for own in nll])
    return {
        "key_tokens": sum(map(len, of_keys)),
        "tokens": sum(map(len, nll)),
        "longppl": mean_perplexity(of_keys),
        "perplexity": mean_perplexity(nll),
        "loss": loss,
        "error": error,
        "all_loss": all_loss,
    }


def mean_perplexity(losses: list[np.ndarray]) -> float | None:
    """The mean over documents of the perplexity of each, weighted by its tokens; None where it is no float."""
    own = [(batches.perplexity(float(loss.mean())), len(loss)) for loss in losses if len(loss)]
    if any(value is None for value, _ in own):
        return None
    return batches.number(sum(value * count for value, count in own if value) / sum(count for _, count in own))


def finding(result: dict, trained: int) -> str:
    """LongPPL at the longest length trained at, and what found the key tokens."""
    return results.finding_by_length(result, "key_tokens", trained, lambda record: _finding(record, _by(result)))


def _finding(record: dict, by: str) -> str:
    if record["longppl"] is None or record["perplexity"] is None or record["loss"] is None:
        return f"The loss is not finite ({by})."
    spread = "" if record["error"] is None else f" ± {record['error']:.3f}"
    return (
        f"At {record['length']:,} tokens: LongPPL {record['longppl']:.4g} ({by}), {record['loss']:.3f}{spread} nats of "
        f"{record['key_tokens']:,} key tokens; perplexity of all {record['tokens']:,} tokens "
        f"{record['perplexity']:.4g} ({record['documents']} documents)."
    )


def _by(result: dict) -> str:
    return f"key tokens by {result['evaluator']}, K = {result['context']:,}, S = {result['stride']:,}"


def headline(result: dict, trained: int) -> str:
    """LongPPL at the longest length trained at."""
    record = results.at_longest(result, "key_tokens", trained)
    if record is None or record["longppl"] is None:
        return ""
    return f"LongPPL {record['longppl']:.4g} (by {result['evaluator']})"


@drawing.style
def figure(result: dict, lengths: list[int], trained: int):
    """The loss of key tokens by length, with one standard error, and that of all tokens; None without any."""
    if not (records := results.measured(result, "key_tokens")):
        return None
    figure, axes = drawing.new_figure()
    where = [record["length"] for record in records]
    loss, error, every = (drawing.numbers([r[name] for r in records]) for name in ("loss", "error", "all_loss"))
    own, other = drawing.PALETTE[:2]
    axes.errorbar(where, loss, np.nan_to_num(error), capsize=2, elinewidth=1, marker="o", color=own, label="key tokens")
    axes.plot(where, every, marker="s", color=other, label="all tokens")
    drawing.end_of_training(axes, where, trained)
    drawing.length_axis(axes.xaxis, where)
    axes.set(xlabel="context (tokens)", ylabel="held-out loss (nats per token)")
    axes.set_title(_by(result), loc="left", color=drawing.MUTED)
    axes.legend()
    return figure


_NUMBERS = dict.fromkeys(("longppl", "perplexity", "loss", "error", "all_loss"), results.NUMBER)
_FORM = {"documents": int, "key_tokens": int, "tokens": int} | _NUMBERS


def is_result(result: dict) -> bool:
    """Whether a stored dict is what `run` returns."""
    return results.fits(result, {"evaluator": str, "context": int, "stride": int}) and results.is_by_length(
        result, "key_tokens", _FORM, anything
    )


TASK = Task(
    run,
    title="LongPPL",
    caption="The loss of those tokens that a long context makes easy for the evaluator. Lower = better.",
    finding=finding,
    figure=figure,
    is_result=is_result,
    lengths=results.lengths,
    headline=headline,
    by_request=True,
)
