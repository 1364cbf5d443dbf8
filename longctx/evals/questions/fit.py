"""Samples as long as a context allows: the largest haystack whose prompt and answer fit into so many tokens."""

import zlib
from typing import NamedTuple

import numpy as np

from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError
from longctx.evals.questions.question import Questions, Sample

TRIES = 16  # haystacks that are made, at most, to find the largest that fits


class Fitted(NamedTuple):
    """A sample of a length. size: of its haystack; tokens: of its longest prompt, the start token among them."""

    sample: Sample
    size: int
    tokens: int


def drawn(task: Questions, name: str, seed: int, index: int, size: int) -> Sample:
    """Sample number `index` of the task called `name`, with a haystack of that size."""
    return task.sample(np.random.default_rng([seed, zlib.crc32(name.encode()), index]), size)


def fitted(
    task: Questions, name: str, tokenizer: Tokenizer, length: int, seed: int, index: int, turns: bool = False
) -> Fitted:
    """Sample number `index` of the task, as large as `length` tokens allow with its answer.

    turns: whether all questions about a context follow one another, with their answers.

    Raises UserError where the smallest is longer.
    """

    def of(size: int) -> Fitted:
        sample = drawn(task, name, seed, index, size)
        prompts = [sample.prompt(query) for query in sample.queries]
        if turns:  # answers and the next question may become fewer tokens together, hardly more
            prompts = [sample.context + "".join(query.question + query.prefix for query in sample.queries)]
        answers = (task.budget + 1) * (len(sample.queries) - len(prompts))
        return Fitted(sample, size, max(_tokens(tokenizer, prompt) for prompt in prompts) + answers)

    room, best = length - task.budget, of(task.smallest)
    if best.tokens > room:
        raise UserError(
            f"{length:,} tokens are too few for {name}: its shortest prompt and answer take "
            f"{best.tokens + task.budget:,}."
        )
    size, too_large = 2 * task.smallest, None
    for _ in range(TRIES):
        found = of(size)
        per_part = max((found.tokens - best.tokens) / (found.size - best.size), 0.25)
        if found.tokens <= room:
            best = found
        else:
            too_large = size
        size = _next(best, int((room - best.tokens) / per_part), too_large)
        if size == best.size:
            break
    return best


def _next(best: Fitted, step: int, too_large: int | None) -> int:
    """A size to try next, `step` parts more or about; that of `best` where there is none."""
    if too_large is None:
        return best.size + min(max(step, 1), 7 * best.size)
    return min(best.size + min(max(step, 1), best.size), too_large - 1)


def _tokens(tokenizer: Tokenizer, prompt: str) -> int:
    return 1 + len(tokenizer.encode(prompt.encode()))
