"""The interface of an evaluation: how it is measured, and how a report shows the result."""

from collections.abc import Callable
from typing import Any, NamedTuple


def anything(result: dict) -> bool:
    """True: a task that says nothing about its stored results takes any dict."""
    return True


def no_headline(result: dict, trained: int) -> str:
    """No words: a task whose result is not said in the last line of a run."""
    return ""


def no_lengths(result: dict) -> list[int]:
    """No context length: the figure of a task without a line per length has no use for their colours."""
    return []


class Task(NamedTuple):
    """An evaluation. To add one: a file in longctx/evals/tasks that makes a Task, and a line in EVALS of evals/api.py.

    Attributes:
      run: (predictor, documents, tokenizer, config, lengths, seed) -> result, a small dict that JSON can hold, with the
        units of its numbers in it; a number that could not be measured is None and the result says why. Arguments:
        predictor  batch -> batches.Prediction(nll float32 [B, T], top bool [B, T]). A batch is a dict of numpy arrays
                   [B, T] in natural order: tokens, targets, positions, segments (int32; segment 0 is padding) and
                   weights (float32, 1 on targets that are asked for). B is at most batches.rows_at(T); the predictor
                   pads it to few shapes (longctx.evals.predictor).
        documents  sequence of held-out longctx.data.document.Document, with `.name` and `.text` in bytes.
        tokenizer  longctx.data.tokenizers.Tokenizer: encode, encode_with_spans, bos, eos, pad.
        config     longctx.config.EvalConfig.
        lengths    context lengths in tokens.
        seed       the same seed gives the same numbers.
        and where by_sample, by name: samples  a samples.Samples, whose lines are not asked again; say  takes lines of
                   what was found so far.
      title: of the figure, such as "Passkey retrieval".
      caption: how to read the figure, in a sentence or two.
      finding: (result, trained) -> what was found, in a sentence; trained: the longest context trained at, in tokens.
      figure: (result, lengths, trained) -> matplotlib Figure, or None where the result holds nothing to draw. lengths:
        every context length of the report, whose places are their colours: see drawing.colour_of.
      is_result: whether a dict read back from evals.json is what `run` returns, as far as finding and figure use it.
      lengths: result -> the context lengths that have a line, hence a colour, in the figure.
      headline: (result, trained) -> the result in a few words, for the last line of a run; "" where there is none.
      fills_every_length: whether `run` makes rows as long as every length, however short the held-out documents are:
        then memory must hold such rows, and is asked before anything is measured.
      by_request: whether a report is silent on it until it was measured.
      by_sample: whether what was asked is kept sample by sample.
    """

    run: Callable[..., dict]
    title: str
    caption: str
    finding: Callable[[dict, int], str]
    figure: Callable[[dict, list[int], int], Any]
    is_result: Callable[[dict], bool] = anything
    lengths: Callable[[dict], list[int]] = no_lengths
    headline: Callable[[dict, int], str] = no_headline
    fills_every_length: bool = False
    by_request: bool = False
    by_sample: bool = False
