"""Questions about generated texts (longctx/evals/questions), asked in one of three ways.

forced     one forward pass: right where every token of the answer is the model's top choice, everything before given;
           greedy decoding then writes the answer. Questions with several answers have no order that could be forced.
choice     one forward pass for each answer that the task offers: the likeliest is taken.
generate   greedy decoding through the KV cache, as many tokens as the task allows; scored as the task says.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from longctx.errors import UserError
from longctx.evals import batches, drawing, results
from longctx.evals.batches import Piece
from longctx.evals.questions import fit
from longctx.evals.questions.api import QUESTIONS, named
from longctx.evals.questions.question import Query, Questions, Sample
from longctx.evals.task import Task

Asked = tuple[Sample, Query]
NONE = {"forced": "its questions have several answers, which cannot be forced", "choice": "it offers no answers"}


def run(predictor, documents, tokenizer, config, lengths, seed) -> dict:
    """Every task of config.questions at every length (tokens of prompt and answer), config.samples texts a cell.

    asked, right   questions, and the sum of their scores: 1 for each that is answered right
    low, high      95% interval of the share (Wilson)
    tokens         mean of the prompts
    A cell without `asked` says the reason. `chance` is that of choosing among the answers that a task offers. No
    document is read.
    """
    cells = {
        name: [_cell(predictor, name, tokenizer, length, config, seed) for length in lengths]
        for name in named(config.questions)
    }
    return {
        "what": f"questions about generated text, {config.ask}",
        "units": {"lengths": "tokens of prompt and answer", "low, high": "95% interval", "tokens": "of a prompt"},
        "way": config.ask,
        "lengths": list(lengths),
        "samples": config.samples,
        "tasks": [{"name": name, "what": QUESTIONS[name].what, "cells": row} for name, row in cells.items()],
    }


def _cell(predictor, name: str, tokenizer, length: int, config, seed: int) -> dict:
    """The counts of one task at one length."""
    task = QUESTIONS[name]
    try:
        found = [fit.fitted(task, name, tokenizer, length, seed, index) for index in range(config.samples)]
    except UserError as error:
        return {"reason": str(error)}
    asked = [(one.sample, query) for one in found for query in one.sample.queries if _can_be(config.ask, query)]
    if not asked:
        return {"reason": NONE[config.ask]}
    right = float(sum(WAYS[config.ask](predictor, tokenizer, length, task, asked)))
    low, high = (batches.number(bound) for bound in batches.binomial(right, len(asked)))
    return {
        "asked": len(asked),
        "right": batches.number(right),
        "low": low,
        "high": high,
        "chance": batches.number(float(np.mean([task.chance(query) for _, query in asked]))),
        "tokens": round(np.mean([one.tokens for one in found])),
    }


def _can_be(way: str, query: Query) -> bool:
    """Whether a query can be asked in a way."""
    return {"forced": len(query.gold) == 1, "choice": bool(query.candidates)}.get(way, True)


# ---- ways to ask: (predictor, tokenizer, length, task, what is asked) -> the score of each query ---------------------


def by_force(predictor, tokenizer, length: int, task: Questions, asked: Sequence[Asked]) -> list[float]:
    """1 for each query whose whole answer is the top choice."""
    pieces = [answered(tokenizer, sample, query, query.gold[0]) for sample, query in asked]
    predictions = batches.score(predictor, [[piece] for piece in pieces], length, tokenizer.pad)
    return [float(found.top[piece.asked].all()) for (found,), piece in zip(predictions, pieces, strict=True)]


def by_choice(predictor, tokenizer, length: int, task: Questions, asked: Sequence[Asked]) -> list[float]:
    """The score of the candidate that is the likeliest text."""
    pieces = [answered(tokenizer, *one, candidate) for one in asked for candidate in one[1].candidates]
    predictions = batches.score(predictor, [[piece] for piece in pieces], length, tokenizer.pad)
    losses = iter(found.nll[piece.asked].sum() for (found,), piece in zip(predictions, pieces, strict=True))
    chosen = [query.candidates[int(np.argmin([next(losses) for _ in query.candidates]))] for _, query in asked]
    return [task.score(f" {answer}", query) for answer, (_, query) in zip(chosen, asked, strict=True)]


def by_generation(predictor, tokenizer, length: int, task: Questions, asked: Sequence[Asked]) -> list[float]:
    """The score of what greedy decoding writes."""
    prompts = [np.append(tokenizer.bos, tokenizer.encode(sample.prompt(query).encode())) for sample, query in asked]
    answers = predictor.generate(prompts, task.budget, length, tokenizer.ends)
    texts = [tokenizer.decode(ids[~np.isin(ids, tokenizer.ends)]) for ids in answers]
    return [task.score(text, query) for text, (_, query) in zip(texts, asked, strict=True)]


WAYS: Mapping[str, Callable[..., list[float]]] = {"forced": by_force, "choice": by_choice, "generate": by_generation}


def answered(tokenizer, sample: Sample, query: Query, answer: str) -> Piece:
    """Prompt and answer as one text; what is asked for are the tokens that hold a character of the answer."""
    return batches.answered(tokenizer, f"{sample.prompt(query)} {answer}", answer)


# ---- results ---------------------------------------------------------------------------------------------------------


def effective_length(cells: list[dict], lengths: list[int]) -> int:
    """The longest length at which a task scores at least half way from chance to its own best; 0 where it has none."""
    measured = [
        (cell["right"] / cell["asked"], cell["chance"], n)
        for cell, n in zip(cells, lengths, strict=True)
        if cell.get("asked")
    ]
    best = max((share for share, _, _ in measured), default=0.0)
    return max((n for share, chance, n in measured if best > chance and share >= (best + chance) / 2), default=0)


def finding(result: dict, trained: int) -> str:
    """The share of right answers over all tasks, by length."""
    by_length = _overall(result)
    if not by_length:
        return "No task fits the lengths that were measured."
    shares = ", ".join(f"{share:.0%} at {length:,}" for length, share, _ in by_length)
    chance, left = np.mean([chance for _, _, chance in by_length]), len(result["tasks"]) - len(_asked(result))
    without = f"; {left} more cannot be asked so" if left else ""
    return (
        f"Of the questions of {len(_asked(result))} tasks are answered: {shares} (choosing at random: {chance:.0%})"
        f"{without}."
    )


def headline(result: dict, trained: int) -> str:
    """The share of right answers over all tasks, at the longest length trained at."""
    by_length = _overall(result)
    within = [one for one in by_length if one[0] <= trained] or by_length
    return f"questions {within[-1][1]:.0%} at {within[-1][0]:,} tokens" if within else ""


def _asked(result: dict) -> list[dict]:
    """The tasks that were asked at some length."""
    return [task for task in result["tasks"] if any(cell.get("asked") for cell in task["cells"])]


def _overall(result: dict) -> list[tuple[int, float, float]]:
    """(length, mean share of right answers, mean chance) over the tasks, of each length at which some were asked."""
    found = []
    for i, length in enumerate(result["lengths"]):
        cells = [task["cells"][i] for task in result["tasks"] if task["cells"][i].get("asked")]
        if cells:
            share = np.mean([cell["right"] / cell["asked"] for cell in cells])
            found.append((length, float(share), float(np.mean([cell["chance"] for cell in cells]))))
    return found


@drawing.style
def figure(result: dict, lengths: list[int], trained: int):
    """A heatmap, task by length: the share of questions answered right."""
    from matplotlib.figure import Figure

    tasks = _asked(result)
    if not tasks:
        return None
    figure = Figure(figsize=(drawing.SIZE[0], 1.2 + 0.28 * len(tasks)), layout="constrained")
    axes = figure.subplots()
    share = np.array([[_share(cell) for cell in task["cells"]] for task in tasks])
    drawing.shares(figure, axes, share, [task["name"] for task in tasks], result["lengths"], trained, "right", None)
    for (row, col), value in np.ndenumerate(share):
        words, colour = ("-", drawing.MUTED) if np.isnan(value) else (f"{value:.0%}", drawing.ink_on(value))
        axes.text(col + 0.5, row + 0.5, words, ha="center", va="center", fontsize=8, color=colour)
    return figure


def _share(cell: dict) -> float:
    return cell["right"] / cell["asked"] if cell.get("asked") else np.nan


_CELL = {"asked": int, "right": (int, float), "chance": (int, float)}
_FORM = {"lengths": [int], "tasks": [{"name": str, "cells": [dict]}]}


def is_result(result: dict) -> bool:
    """Whether a stored dict is what `run` returns."""
    return results.fits(result, _FORM) and all(
        len(task["cells"]) == len(result["lengths"])
        and all(results.fits(cell, _CELL if "asked" in cell else {"reason": str}) for cell in task["cells"])
        for task in result["tasks"]
    )


TASK = Task(
    run,
    title="Questions about generated text",
    caption="Each cell: the share of a task's questions that are answered right.",
    finding=finding,
    figure=figure,
    is_result=is_result,
    headline=headline,
    fills_every_length=True,
    by_request=True,
)
