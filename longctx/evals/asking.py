"""Ways to ask questions about a context, and what comes back.

forced     one forward pass: right where every token of the answer is the model's top choice, everything before given;
           greedy decoding then writes the answer. Questions with several answers have no order that could be forced.
choice     the log-likelihood of each answer that the task offers: the likeliest is taken.
generate   greedy decoding through the KV cache, as many tokens as the task allows; scored as the task says.
turns      the same in one conversation: the questions about a context come one after another, each after those before
           and what was answered to them.

Questions about one context, and the answers to choose among, share one pass over it: see branches.py, and
longctx.generation.reading for the cache.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from longctx.evals import batches, branches
from longctx.evals.batches import Piece
from longctx.evals.questions.question import Query, Questions, Sample

Asked = tuple[Sample, Query]
NONE = {"forced": "its questions have several answers, which cannot be forced", "choice": "it offers no answers"}


class Answer(NamedTuple):
    """An answer: its score from 0 to 1, and its text; "" where it was forced and is wrong."""

    score: float
    text: str


def can_be_asked(way: str, query: Query) -> bool:
    """Whether a query can be asked in a way."""
    return {"forced": len(query.gold) == 1, "choice": bool(query.candidates)}.get(way, True)


def by_force(predictor, tokenizer, length: int, task: Questions, asked: Sequence[Asked]) -> list[Answer]:
    """Scores 1 for each query whose whole answer is the top choice."""
    pieces = [answered(tokenizer, *one, one[1].gold[0]) for one in asked]
    found = branches.score(predictor, pieces, length, tokenizer.pad)
    right = [bool(prediction.top[piece.asked].all()) for prediction, piece in zip(found, pieces, strict=True)]
    return [Answer(float(yes), query.gold[0] if yes else "") for yes, (_, query) in zip(right, asked, strict=True)]


def by_choice(predictor, tokenizer, length: int, task: Questions, asked: Sequence[Asked]) -> list[Answer]:
    """The candidate that is the likeliest text."""
    pieces = [answered(tokenizer, *one, candidate) for one in asked for candidate in one[1].candidates]
    found = branches.score(predictor, pieces, length, tokenizer.pad)
    losses = iter(prediction.nll[piece.asked].sum() for prediction, piece in zip(found, pieces, strict=True))
    chosen = [query.candidates[int(np.argmin([next(losses) for _ in query.candidates]))] for _, query in asked]
    return [Answer(task.score(f" {text}", query), text) for text, (_, query) in zip(chosen, asked, strict=True)]


def by_generation(predictor, tokenizer, length: int, task: Questions, asked: Sequence[Asked]) -> list[Answer]:
    """The text that greedy decoding writes."""
    contexts = [list(queries) for _, queries in itertools.groupby(asked, lambda one: id(one[0]))]
    if len(contexts) == len(asked):
        contexts = [list(asked)]
    texts = []
    for some in contexts:
        texts += _written(predictor, tokenizer, length, task, [sample.prompt(query) for sample, query in some])
    return [Answer(task.score(text, query), text) for text, (_, query) in zip(texts, asked, strict=True)]


def by_turns(predictor, tokenizer, length: int, task: Questions, asked: Sequence[Asked]) -> list[Answer]:
    """The texts that greedy decoding writes, question after question of one conversation about each context."""
    talks = [list(queries) for _, queries in itertools.groupby(asked, lambda one: id(one[0]))]
    said, answers = [talk[0][0].context for talk in talks], [[] for _ in talks]
    for turn in range(max(map(len, talks))):
        going = [i for i, talk in enumerate(talks) if turn < len(talk)]
        for i in going:
            query = talks[i][turn][1]
            said[i] += query.question + query.prefix
        texts = _written(predictor, tokenizer, length, task, [said[i] for i in going])
        for i, text in zip(going, texts, strict=True):
            said[i] += text.rstrip()
            answers[i].append(Answer(task.score(text, talks[i][turn][1]), text))
    return [answer for of_talk in answers for answer in of_talk]


def _written(predictor, tokenizer, length: int, task: Questions, prompts: list[str]) -> list[str]:
    """What greedy decoding writes after each prompt."""
    ids = [np.append(tokenizer.bos, tokenizer.encode(prompt.encode())) for prompt in prompts]
    answers = predictor.generate(ids, task.budget, length, tokenizer.ends)
    return [tokenizer.decode(ids[~np.isin(ids, tokenizer.ends)]) for ids in answers]


# (predictor, tokenizer, length, task, what is asked: queries of one sample side by side) -> the answer to each
WAYS: Mapping[str, Callable[..., list[Answer]]] = {
    "forced": by_force,
    "choice": by_choice,
    "generate": by_generation,
    "turns": by_turns,
}


def answered(tokenizer, sample: Sample, query: Query, answer: str) -> Piece:
    """Prompt and answer as one text; what is asked for are the tokens that hold a character of the answer."""
    return batches.answered(tokenizer, f"{sample.prompt(query)} {answer}", answer)
