"""Whether the segment of a text that holds a planted fact is the one that the right answer rests on most.

The questions are those of longctx/evals/questions that have one answer and one planted fact; the segments are searched
as longctx/evals/attribution.py says.
"""

import re
from typing import NamedTuple

import numpy as np

from longctx.config import EvalConfig
from longctx.errors import UserError, unknown_name
from longctx.evals import attribution, batches, drawing, results
from longctx.evals.attribution import CONTRIBUTIONS
from longctx.evals.questions import fit
from longctx.evals.questions.api import QUESTIONS, named
from longctx.evals.questions.question import Query, Questions, Sample
from longctx.evals.task import Task

NO_FACT = "it has no question with one answer that rests on one planted fact"
NO_SEGMENT = "no question rests on one segment alone"
_ENDS = re.compile(r"[.,;!?]\s+|\n+"), re.compile(r"\s+")  # of what a segment may end with, the best first


class Planted(NamedTuple):
    """A question about a context in segments; fact: the number of the segment that holds its planted fact."""

    segments: list[str]
    query: Query
    fact: int


def check(config: EvalConfig) -> None:
    """Raises UserError for an unknown name in eval.contributions, or none at all."""
    for i, name in enumerate(config.contributions):
        if name not in CONTRIBUTIONS:
            raise unknown_name(f"eval.contributions[{i}]", name, CONTRIBUTIONS)
    if not config.contributions:
        raise UserError("eval.contributions=() measures nothing; ('leave_one_out',) works.")


def run(predictor, documents, tokenizer, config, lengths, seed) -> dict:
    """Every task of config.questions at every length (tokens of prompt and answer), config.samples texts a cell.

    asked, first   questions, and how many have their planted fact in the segment that contributes most
    low, high      95% interval of the share (Wilson)
    chance         1 / segments, the mean over the questions
    rows           texts that were read for a question, the mean
    A cell without `asked` says the reason. No document is read.
    """
    cells = {
        name: [_cell(predictor, name, tokenizer, length, config, seed) for length in lengths]
        for name in named(config.questions)
    }
    return {
        "what": "planted facts in the segment that contributes most to the answer",
        "units": {"lengths": "tokens of prompt and answer", "low, high": "95% interval", "rows": "texts of a question"},
        "contributions": list(config.contributions),
        "lengths": list(lengths),
        "tasks": [{"name": name, "what": QUESTIONS[name].what, "cells": row} for name, row in cells.items()],
    }


def _cell(predictor, name: str, tokenizer, length: int, config, seed: int) -> dict:
    """The counts of one task at one length."""
    task = QUESTIONS[name]
    try:
        found = [fit.fitted(task, name, tokenizer, length, seed, index) for index in range(config.samples)]
    except UserError as error:
        return {"reason": str(error).rstrip(".")}
    pairs = [(one.sample, query) for one in found for query in one.sample.queries if _has_fact(query)]
    if not pairs:
        return {"reason": NO_FACT}
    asked = [one for sample, query in pairs if (one := planted(task, sample, query, config.segments))]
    if not asked:
        return {"reason": NO_SEGMENT}
    ranks, rows = [], []
    for one in asked:
        question, (gold,) = one.query.question + one.query.prefix, one.query.gold
        value = attribution.Answer(predictor, tokenizer, one.segments, question, gold, length)
        scores = attribution.search(value, len(one.segments), config.contributions, seed=seed)
        ranks.append(first_is(scores, one.fact))
        rows.append(value.rows)
    low, high = (batches.number(bound) for bound in batches.binomial(sum(ranks), len(ranks)))
    return {
        "asked": len(asked),
        "first": sum(ranks),
        "low": low,
        "high": high,
        "chance": batches.number(float(np.mean([1 / len(one.segments) for one in asked]))),
        "rows": batches.number(float(np.mean(rows))),
    }


def first_is(scores: np.ndarray, fact: int) -> bool:
    """Whether a segment contributes more than each other one: with no tie, and a finite number of nats."""
    others = np.delete(scores, fact)
    return bool(np.isfinite(scores[fact]) and not (others >= scores[fact]).any())


def _has_fact(query: Query) -> bool:
    return query.depth is not None and len(query.gold) == 1


def planted(task: Questions, sample: Sample, query: Query, count: int) -> Planted | None:
    """A question about a sample in `count` segments, at most; None where not exactly one of them is needed.

    Needed is a segment without which the solver of the task, who reads nothing but the text, is wrong.
    """
    segments = cut(sample.context, count)
    needed = [i for i in range(len(segments)) if not _solved(task, query, segments[:i] + segments[i + 1 :])]
    return Planted(segments, query, needed[0]) if len(needed) == 1 and len(segments) > 1 else None


def _solved(task: Questions, query: Query, segments: list[str]) -> bool:
    """Whether the solver gives the right answer from these segments."""
    try:
        answer = task.solve("".join(segments) + query.question + query.prefix)
    except (LookupError, ValueError, TypeError, AttributeError, StopIteration):  # what it looks for is not there
        return False
    return task.score(f" {answer}", query) == 1


def cut(text: str, count: int) -> list[str]:
    """A text in at most `count` segments of about one size, which end with a clause or a line, or else with a word."""
    ends = np.array([len(text)])
    for kind in _ENDS:
        if len(ends) < 2 * count:
            ends = np.array([*(found.end() for found in kind.finditer(text)), len(text)])
    wanted = np.arange(1, count) * len(text) / count
    nearest = {int(ends[np.argmin(np.abs(ends - place))]) for place in wanted}
    bounds = sorted({0, *nearest, len(text)})
    return [text[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]


# ---- results ---------------------------------------------------------------------------------------------------------


def finding(result: dict, trained: int) -> str:
    """How often the planted fact is in the segment that contributes most, over all tasks, by length."""
    by_length = _overall(result)
    if not by_length:
        return "No task has a planted fact at the lengths that were measured."
    shares = ", ".join(f"{first / asked:.0%} of {asked} at {length:,}" for length, first, asked, _ in by_length)
    chance = np.mean([chance for *_, chance in by_length])
    return (
        f"The planted fact is in the segment that contributes most ({', '.join(result['contributions'])}): {shares} "
        f"(chance: {chance:.0%})."
    )


def headline(result: dict, trained: int) -> str:
    """The share at the longest length trained at."""
    by_length = _overall(result)
    within = [one for one in by_length if one[0] <= trained] or by_length
    if not within:
        return ""
    length, first, asked, _ = within[-1]
    return f"facts attributed {first / asked:.0%} at {length:,} tokens"


def _overall(result: dict) -> list[tuple[int, int, int, float]]:
    """(length, facts found first, questions, mean chance) over the tasks, of each length at which some were asked."""
    found = []
    for i, length in enumerate(result["lengths"]):
        cells = [task["cells"][i] for task in result["tasks"] if task["cells"][i].get("asked")]
        if cells:
            first, asked = (sum(cell[name] for cell in cells) for name in ("first", "asked"))
            found.append((length, first, asked, float(np.mean([cell["chance"] for cell in cells]))))
    return found


@drawing.style
def figure(result: dict, lengths: list[int], trained: int):
    """The share of facts that are found first by length, a line per task with 95% intervals; None without any."""
    overall = _overall(result)
    if not overall:
        return None
    figure, axes = drawing.new_figure()
    where = result["lengths"]
    for i, task in enumerate(results.tasks_asked(result)):
        cells = [cell if cell.get("asked") else None for cell in task["cells"]]
        share = drawing.numbers([cell and cell["first"] / cell["asked"] for cell in cells])
        bounds = [drawing.numbers([cell and cell[name] for cell in cells]) for name in ("low", "high")]
        errors = np.maximum(0, [share - bounds[0], bounds[1] - share])
        style = {
            "color": drawing.PALETTE[i % len(drawing.PALETTE)],
            "marker": drawing.MARKERS[i % len(drawing.MARKERS)],
        }
        axes.errorbar(where, share, errors, capsize=2, elinewidth=1, label=task["name"], **style)
    axes.plot([one[0] for one in overall], [one[3] for one in overall], "--", color=drawing.MUTED, label="chance")
    drawing.end_of_training(axes, where, trained)
    drawing.length_axis(axes.xaxis, where)
    axes.set(xlabel="context length (tokens)", ylabel="planted fact contributes most", ylim=(-0.03, 1.03))
    axes.set_title(", ".join(result["contributions"]), loc="left", color=drawing.MUTED)
    axes.legend()
    return figure


_CELL = {"asked": int, "first": int} | dict.fromkeys(("low", "high", "chance"), (int, float))


def is_result(result: dict) -> bool:
    """Whether a stored dict is what `run` returns."""
    return results.fits(result, {"contributions": [str]}) and results.is_by_task(result, _CELL)


TASK = Task(
    run,
    title="What answers rest on",
    caption="How often the segment with the planted fact adds most to the answer's likelihood. Bars: 95% intervals.",
    finding=finding,
    figure=figure,
    is_result=is_result,
    headline=headline,
    fills_every_length=True,
    by_request=True,
)
