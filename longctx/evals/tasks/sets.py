"""Questions of a set that was downloaded (longctx/evals/sets), asked in the ways of longctx/evals/asking.py.

Prompts are plain text, without the template of a chat.
"""

import numpy as np

from longctx.errors import UserError
from longctx.evals import asking, batches, results
from longctx.evals.questions.question import Query
from longctx.evals.samples import Samples, of_query
from longctx.evals.sets import lengths as texts
from longctx.evals.sets.api import SETS, recognised
from longctx.evals.sets.lengths import Fitted, Measured
from longctx.evals.sets.published import Grown, Texts
from longctx.evals.task import Task
from longctx.evals.tasks import questions


def run(predictor, documents, tokenizer, config, lengths, seed, samples: Samples | None = None, say=None) -> dict:
    """Every task of the set in config.data at every length (tokens of prompt and answer), config.samples texts a cell.

    texts          that were drawn; at every length the same, but for sets whose texts are made as long
    cut, skipped   those of them that were longer and lost their middle, or were left out
    asked, right   questions, and the sum of their scores, each from 0 to 1 as the set counts
    low, high      95% interval of the share (Wilson)
    tokens         mean of the prompts
    A cell without `asked` says the reason. `chance` is that of a guess. No document is read.

    samples: those that were asked before are not asked again. say: takes a line for every cell.
    """
    name, tasks = recognised(config.data)
    samples, say = samples or Samples(), say or (lambda line: None)
    rows = [_row(predictor, task, tokenizer, lengths, config, seed, samples, say) for task in tasks]
    return {
        "what": f"questions of {SETS[name].title}, {config.ask}",
        "units": {"lengths": "tokens of prompt and answer", "low, high": "95% interval", "tokens": "of a prompt"},
        "set": name,
        "source": SETS[name].source,
        "way": config.ask,
        "too_long": config.too_long,
        "lengths": list(lengths),
        "samples": config.samples,
        "tasks": rows,
    }


def _row(predictor, task: Texts | Grown, tokenizer, lengths, config, seed: int, samples: Samples, say) -> dict:
    """A task at every length; each text is measured once."""
    answers = lambda query: _read(config.ask, task, query)
    measure = lambda sample: texts.measured(sample, tokenizer, task.budget, answers)
    found = [measure(sample) for sample in texts.drawn(task, config.samples, seed)] if isinstance(task, Texts) else []

    def at(length: int) -> dict:
        try:
            if isinstance(task, Texts):
                fitted = texts.TOO_LONG[config.too_long](found, length, measure)
            else:
                fitted = texts.grown(task, tokenizer, length, config.samples, seed)
        except UserError as error:
            return {"reason": str(error), "texts": len(found)}
        open_ = {i: one for i, one in fitted.texts.items() if not samples.has(task.name, length, i)}
        samples.add(_asked(predictor, task, tokenizer, length, config.ask, open_))
        return _cell(config.ask, fitted, [samples.one(task.name, length, i) for i in fitted.texts])

    cells = []
    for length in lengths:
        cells.append(at(length))
        say(f"  {task.name} at {length:,}: {questions.in_words(cells[-1])}")
    return {"name": task.name, "texts": len(task.rows) if isinstance(task, Texts) else None, "cells": cells}


def _asked(predictor, task: Texts | Grown, tokenizer, length: int, way: str, found: dict[int, Measured]) -> list[dict]:
    """The lines of these texts for Samples, after they were asked."""
    lines = {i: {"task": task.name, "length": length, "index": i, "tokens": one.prompt} for i, one in found.items()}
    asked = [(i, query) for i, one in found.items() for query in one.sample.queries if _can_be(way, task, query)]
    pairs = [(found[i].sample, query) for i, query in asked]
    answers = asking.WAYS[way](predictor, tokenizer, length, task, pairs) if pairs else []
    for line in lines.values():
        line["queries"] = []
    for (i, query), (sample, _), answer in zip(asked, pairs, answers, strict=True):
        kept = of_query(sample.prompt(query), query.gold, answer, task.chance(query), query.depth)
        lines[i]["queries"].append(kept)
    return list(lines.values())


def _cell(way: str, fitted: Fitted, lines: list[dict]) -> dict:
    """The counts of a task at a length. lines: of its texts, in Samples."""
    counts = {"texts": len(fitted.texts) + fitted.skipped, "cut": fitted.cut, "skipped": fitted.skipped}
    queries = [query for line in lines for query in line["queries"]]
    if not queries:
        return {"reason": asking.NONE[way] if fitted.texts else "all of its texts are longer"} | counts
    right = sum(query["score"] for query in queries)
    low, high = (batches.number(bound) for bound in batches.binomial(right, len(queries)))
    return counts | {
        "asked": len(queries),
        "right": batches.number(right),
        "low": low,
        "high": high,
        "chance": batches.number(float(np.mean([query["chance"] for query in queries]))),
        "tokens": round(float(np.mean([line["tokens"] for line in lines]))),
    }


def _can_be(way: str, task: Texts | Grown, query: Query) -> bool:
    """Whether a query can be asked in a way."""
    return way == "generate" or task.whole(query) and (way == "forced" or bool(query.candidates))


def _read(way: str, task: Texts | Grown, query: Query) -> tuple[str, ...]:
    """The answers that are read behind the prompt of a query."""
    if not _can_be(way, task, query):
        return ()
    return {"forced": query.gold[:1], "choice": query.candidates}.get(way, ())


# ---- results ---------------------------------------------------------------------------------------------------------


def finding(result: dict, trained: int) -> str:
    """The share of right answers over all tasks, by length, and how many texts were too long for it."""
    title = SETS[result["set"]].title if result["set"] in SETS else result["set"]
    return " ".join([f"{title}: {questions.finding(result, trained)}", *_too_long(result)])


def headline(result: dict, trained: int) -> str:
    """The share of right answers over all tasks, at the longest length trained at."""
    return questions.headline(result, trained).replace("questions", result["set"])


def _too_long(result: dict) -> list[str]:
    """A sentence for each length that some texts are longer than."""
    found = []
    for i, length in enumerate(result["lengths"]):
        cells = [(task["name"], task["cells"][i]) for task in result["tasks"]]
        texts, cut, left = (sum(cell.get(key, 0) for _, cell in cells) for key in ("texts", "cut", "skipped"))
        if cut or left:
            found.append(f"Of {texts:,} texts are longer than {length:,} tokens: {cut:,} cut, {left:,} skipped.")
        if reasons := [f"{name}: {cell['reason']}" for name, cell in cells if "reason" in cell]:
            more = f", and {len(reasons) - 1:,} more tasks" if len(reasons) > 1 else ""
            found.append(f"Not asked at {length:,} tokens: {reasons[0]}{more}.")
    return found


_COUNTS = {"texts": int, "cut": int, "skipped": int}
_ASKED = _COUNTS | {"asked": int, "right": (int, float), "chance": (int, float)}


def is_result(result: dict) -> bool:
    """Whether a stored dict is what `run` returns."""
    return results.fits(result, {"set": str}) and results.is_by_task(result, _ASKED)


TASK = Task(
    run,
    title="Questions of a published set",
    caption="Each cell: the mean score of a task's questions, as the set counts it.",
    finding=finding,
    figure=questions.figure,
    is_result=is_result,
    headline=headline,
    fills_every_length=True,
    by_request=True,
    by_sample=True,
)
