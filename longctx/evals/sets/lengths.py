"""Texts of a set at a length in tokens, and what becomes of those that are longer."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError
from longctx.evals.questions import fit
from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets.published import Grown, Texts

TRIES = 16  # cuts of one text, at most, until it fits: tokens at the cut are not those of the whole text

Answers = Callable[[Query], Sequence[str]]


class Measured(NamedTuple):
    """A text and the tokens that it takes.

    Attributes:
      prompt: of its longest prompt, the start token among them.
      needed: the least length that holds every prompt with room for the longest answer.
    """

    sample: Sample
    prompt: int
    needed: int


class Fitted(NamedTuple):
    """The texts of a task at a length, by number; `cut` of them had to be cut, and `skipped` more are left out."""

    texts: dict[int, Measured]
    cut: int = 0
    skipped: int = 0


def drawn(task: Texts, count: int, seed: int) -> list[Sample]:
    """At most `count` texts of a task, chosen at random; those of a smaller count are the first of a larger."""
    order = np.random.default_rng([seed, zlib.crc32(task.name.encode())]).permutation(len(task.rows))
    return [task.sample(int(i)) for i in order[:count]]


def measured(sample: Sample, tokenizer: Tokenizer, budget: int, answers: Answers) -> Measured:
    """The tokens of a text.

    budget: tokens that are kept for an answer. answers: those of a query that are read behind its prompt, as a whole.
    """
    prompts = [sample.prompt(query) for query in sample.queries]
    longest = max(_tokens(tokenizer, prompt) for prompt in prompts)
    read = [
        _tokens(tokenizer, f"{prompt} {answer}")
        for prompt, query in zip(prompts, sample.queries, strict=True)
        for answer in answers(query)
    ]
    return Measured(sample, longest, max([longest + budget, *read]))


def refused(texts: Sequence[Measured], length: int, again: Callable[[Sample], Measured]) -> Fitted:
    """All texts as they are. Raises UserError if one is longer, with the length that would fit them all."""
    if longer := [one for one in texts if one.needed > length]:
        raise UserError(
            f"{len(longer)} of {len(texts)} texts are longer than {length:,} tokens with room for an answer: "
            f"{max(one.needed for one in longer):,} would fit, or eval.too_long='middle' or 'skip'"
        )
    return Fitted(dict(enumerate(texts)))


def cut_in_the_middle(texts: Sequence[Measured], length: int, again: Callable[[Sample], Measured]) -> Fitted:
    """Texts that are longer lose the middle of their context; instructions before it and questions stay whole.

    Raises UserError where a question and its answer alone are longer.
    """
    found = [one if one.needed <= length else _cut(one, length, again) for one in texts]
    return Fitted(dict(enumerate(found)), cut=sum(one.needed > length for one in texts))


def skipped(texts: Sequence[Measured], length: int, again: Callable[[Sample], Measured]) -> Fitted:
    """Texts that are longer are left out."""
    found = {number: one for number, one in enumerate(texts) if one.needed <= length}
    return Fitted(found, skipped=len(texts) - len(found))


TOO_LONG: Mapping[str, Callable[..., Fitted]] = {"refuse": refused, "middle": cut_in_the_middle, "skip": skipped}


def _cut(one: Measured, length: int, again: Callable[[Sample], Measured]) -> Measured:
    """A text of which about as little is left out of the middle as lets it fit."""
    context = one.sample.context.encode()
    keep, now = len(context), one
    for _ in range(TRIES):
        if now.needed <= length:
            return now
        share = len(now.sample.context.encode()) / max(now.prompt, 1)
        keep -= max(int((now.needed - length) * share), 1)
        if keep <= 0:
            break
        half = keep // 2
        parts = context[:half], context[len(context) - (keep - half) :]
        now = again(one.sample._replace(context="".join(part.decode("utf-8", "ignore") for part in parts)))
    least = again(one.sample._replace(context="")).needed
    raise UserError(f"a question and its answer alone take {least:,} tokens of {length:,}")


def grown(task: Grown, tokenizer: Tokenizer, length: int, count: int, seed: int) -> Fitted:
    """Texts that fill the length. Raises UserError where the shortest is longer."""
    asks: Any = task
    found = [fit.fitted(asks, task.name, tokenizer, length, seed, index) for index in range(count)]
    return Fitted(dict(enumerate(Measured(one.sample, one.tokens, one.tokens + task.budget) for one in found)))


def _tokens(tokenizer: Tokenizer, text: str) -> int:
    return 1 + len(tokenizer.encode(text.encode()))
