"""Questions about generated texts (longctx/evals/questions), asked in one of the ways of longctx/evals/asking.py."""

from collections.abc import Callable

import numpy as np

from longctx.errors import UserError
from longctx.evals import asking, batches, drawing, results
from longctx.evals.questions import fit
from longctx.evals.questions.api import configured, named
from longctx.evals.samples import Samples, of_query
from longctx.evals.task import Task

DEPTHS = 5  # parts of a context, from its start to its end, by which answers are counted


def run(predictor, documents, tokenizer, config, lengths, seed, samples: Samples | None = None, say=None) -> dict:
    """Every task of config.questions at every length (tokens of prompt and answer), config.samples texts a cell.

    asked, right       questions, and the sum of their scores: 1 for each that is answered right
    low, high          95% interval of the share (Wilson)
    tokens             mean of the prompts
    depths             [asked, right] of the questions whose answer begins in each part of the context, over all tasks
    effective_length   see the function of that name
    A cell without `asked` says the reason. `chance` is that of choosing among the answers that a task offers. No
    document is read.

    samples: those that were asked before are not asked again. say: takes a line for every cell.
    """
    samples, say = samples or Samples(), say or (lambda line: None)
    tasks, depths = [], np.zeros((len(lengths), DEPTHS, 2))
    for name in named(config.questions):
        cells = []
        for i, length in enumerate(lengths):
            cell, queries = _cell(predictor, name, tokenizer, length, config, seed, samples)
            depths[i] += _by_depth(queries)
            say(f"  {name} at {length:,}: {in_words(cell)}")
            cells.append(cell)
        task = configured(name, config)
        facts = {"name": name, "what": task.what, "diffusion": task.diffusion, "scope": task.scope}
        tasks.append(facts | {"effective_length": effective_length(cells, lengths), "cells": cells})
    return {
        "what": f"questions about generated text, {config.ask}",
        "units": {"lengths": "tokens of prompt and answer", "low, high": "95% interval", "tokens": "of a prompt"},
        "way": config.ask,
        "lengths": list(lengths),
        "samples": config.samples,
        "tasks": tasks,
        "depths": [[[int(asked), batches.number(right)] for asked, right in row] for row in depths],
    }


def _cell(predictor, name: str, tokenizer, length: int, config, seed: int, samples: Samples) -> tuple[dict, list[dict]]:
    """(the counts of one task at one length, its queries)."""
    open_, size = samples.missing(name, length, config.samples), batches.rows_at(length)
    try:
        for start in range(0, len(open_), size):
            samples.add(_asked(predictor, name, tokenizer, length, config, seed, open_[start : start + size]))
    except UserError as error:
        return {"reason": str(error)}, []
    lines = samples.of(name, length, config.samples)
    queries = [query for line in lines for query in line["queries"]]
    if not queries:
        return {"reason": asking.NONE[config.ask]}, []
    right = sum(query["score"] for query in queries)
    low, high = (batches.number(bound) for bound in batches.binomial(right, len(queries)))
    return {
        "asked": len(queries),
        "right": batches.number(right),
        "low": low,
        "high": high,
        "chance": batches.number(float(np.mean([query["chance"] for query in queries]))),
        "tokens": round(np.mean([line["tokens"] for line in lines])),
    }, queries


def _asked(predictor, name: str, tokenizer, length: int, config, seed: int, indices: list[int]) -> list[dict]:
    """The samples of these numbers, asked."""
    task, way = configured(name, config), config.ask
    found = {index: fit.fitted(task, name, tokenizer, length, seed, index, way == "turns") for index in indices}
    lines = {index: {"task": name, "length": length, "index": index, "seed": seed} for index in indices}
    asked = [(index, query) for index in indices for query in found[index].sample.queries]
    asked = [(index, query) for index, query in asked if asking.can_be_asked(way, query)]
    pairs = [(found[index].sample, query) for index, query in asked]
    answers = asking.WAYS[way](predictor, tokenizer, length, task, pairs) if pairs else []
    for index in indices:
        lines[index] |= {"tokens": found[index].tokens, "queries": []}
    for (index, query), (sample, _), answer in zip(asked, pairs, answers, strict=True):
        kept = of_query(sample.prompt(query), query.gold, answer, task.chance(query), query.depth)
        lines[index]["queries"].append(kept)
    return list(lines.values())


def _by_depth(queries: list[dict]) -> np.ndarray:
    """(asked, right) of the queries whose answer begins in each part of the context, [DEPTHS, 2]."""
    counts = np.zeros((DEPTHS, 2))
    for query in queries:
        if query["depth"] is not None:
            counts[min(int(query["depth"] * DEPTHS), DEPTHS - 1)] += 1, query["score"]
    return counts


def in_words(cell: dict) -> str:
    """A cell in a few words, for a line of a terminal."""
    return f"{cell['right']:g} of {cell['asked']}" if "asked" in cell else cell["reason"]


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
    """The share of right answers over all tasks, by length, and how many tasks hold out how long."""
    shares = overall(result)
    if not shares:
        return "No task fits the lengths that were measured."
    asked = results.tasks_asked(result)
    said = ", ".join(f"{share:.0%} at {length:,}" for length, share, _, _ in shares)
    chance, left = np.mean([chance for *_, chance in shares]), len(result["tasks"]) - len(asked)
    without = f"; {left} more cannot be asked so" if left else ""
    longest = shares[-1][0]
    held = sum(effective_length(task["cells"], result["lengths"]) >= longest for task in asked)
    return (
        f"Of the questions of {len(asked)} tasks are answered: {said} (choosing at random: {chance:.0%})"
        f"{without}. {held} of them hold out to {longest:,}, at half of what they score above chance or more."
    )


def headline(result: dict, trained: int) -> str:
    """The share of right answers over all tasks, at the longest length trained at."""
    shares = overall(result)
    within = [one for one in shares if one[0] <= trained] or shares
    return f"questions {within[-1][1]:.0%} at {within[-1][0]:,} tokens" if within else ""


def overall(result: dict, tasks: Callable[[str], bool] = lambda name: True) -> list[tuple[int, float, float, float]]:
    """(length, mean share of right answers, its standard error, mean chance) over tasks, of each length at which some
    were asked. tasks: whether a name counts."""
    found = []
    for i, length in enumerate(result["lengths"]):
        cells = [task["cells"][i] for task in result["tasks"] if tasks(task["name"]) and task["cells"][i].get("asked")]
        if cells:
            shares = np.array([share(cell) for cell in cells])
            errors = np.sqrt(shares * (1 - shares) / [cell["asked"] for cell in cells])
            error = float(np.sqrt((errors**2).sum()) / len(cells))
            found.append((length, float(shares.mean()), error, float(np.mean([cell["chance"] for cell in cells]))))
    return found


def share(cell: dict) -> float:
    """The share of right answers of a cell, NaN where nothing was asked."""
    return cell["right"] / cell["asked"] if cell.get("asked") else np.nan


@drawing.style
def figure(result: dict, lengths: list[int], trained: int):
    """Two heatmaps of the share of questions answered right: task by length, and depth of the answer by length."""
    from matplotlib.figure import Figure

    tasks = sorted(results.tasks_asked(result), key=_hard)
    if not tasks:
        return None
    counts = np.array(result.get("depths", np.zeros((1, DEPTHS, 2))), float).transpose(1, 0, 2)
    heights = [len(tasks), *([DEPTHS] if counts[..., 0].any() else [])]
    size = drawing.SIZE[0], 1.2 * len(heights) + 0.28 * sum(heights)
    figure = Figure(figsize=size, layout="constrained")
    axes, *below = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    shares = np.array([[share(cell) for cell in task["cells"]] for task in tasks])
    names = [f"{task['name']}  {_hard(task)}".rstrip() for task in tasks]
    drawing.shares(figure, axes, shares, names, result["lengths"], trained, "right", None)
    _numbers(axes, shares)
    _effective(axes, [effective_length(task["cells"], result["lengths"]) for task in tasks])
    for rest in below:
        with np.errstate(invalid="ignore"):
            shares = counts[..., 1] / counts[..., 0]
        parts = [f"{i / DEPTHS:.0%} to {(i + 1) / DEPTHS:.0%}" for i in range(DEPTHS)]
        drawing.shares(figure, rest, shares, parts, result["lengths"], trained, "right", None)
        rest.set_ylabel("where the answer begins")
        _numbers(rest, shares)
    return figure


_HARD = ("D", "diffusion"), ("S", "scope")


def _hard(task: dict) -> str:
    """Two letters: whether facts are hard to find, and whether much of the text is needed; large ones for yes. "" where
    that is not known."""
    letters = (letter if task[name] == "high" else letter.lower() for letter, name in _HARD if name in task)
    return "".join(letters)


def _numbers(axes, shares: np.ndarray) -> None:
    for (row, col), value in np.ndenumerate(shares):
        words, colour = ("-", drawing.MUTED) if np.isnan(value) else (f"{value:.0%}", drawing.ink_on(value))
        axes.text(col + 0.5, row + 0.5, words, ha="center", va="center", fontsize=8, color=colour)


def _effective(axes, lengths: list[int]) -> None:
    """The effective lengths of the rows, at their right ends."""
    right = axes.twinx()
    right.grid(False)
    right.spines[:].set_visible(False)
    right.set_ylim(axes.get_ylim())
    right.set_yticks(np.arange(len(lengths)) + 0.5, [drawing.count(n) if n else "none" for n in lengths])
    right.tick_params(length=0)
    right.set_ylabel("effective length (tokens)")


_CELL = {"asked": int, "right": (int, float), "chance": (int, float)}
_TASK = {"diffusion": str, "scope": str, "effective_length": int}
_FORM = {"tasks": [_TASK], "depths": [[[(int, float)]]]}


def is_result(result: dict) -> bool:
    """Whether a stored dict is what `run` returns."""
    return (
        results.fits(result, _FORM)
        and results.is_by_task(result, _CELL)
        and [[len(pair) for pair in row] for row in result["depths"]] == [[2] * DEPTHS] * len(result["lengths"])
    )


TASK = Task(
    run,
    title="Questions about generated text",
    caption=(
        "Each cell: the share of a task's questions that are answered right. D: the facts are hard to find, d: easy; "
        "S: much of the text is needed, s: little. Effective: the longest length that keeps half of what the task "
        "scores above chance at its best."
    ),
    finding=finding,
    figure=figure,
    is_result=is_result,
    headline=headline,
    fills_every_length=True,
    by_request=True,
    by_sample=True,
)
