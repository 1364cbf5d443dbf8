"""The picture that compares the questions that several models were asked: by length, and task by task."""

from collections.abc import Mapping

import numpy as np

from experiments.settings import console
from longctx.evals.drawing import MARKERS, MUTED, PALETTE, SIZE, band, length_axis, style
from longctx.evals.results import tasks_asked
from longctx.evals.tasks.questions import overall, share


def table(runs: Mapping[str, dict]) -> str:
    """The share of right answers over the tasks that all runs were asked, by run and length.

    runs: by name, results of longctx.evals.tasks.questions.
    """
    common, lengths = _common(runs), sorted({length for result in runs.values() for length in result["lengths"]})
    rows = []
    for name, result in runs.items():
        found = {length: mean for length, mean, *_ in overall(result, common.__contains__)}
        rows.append((name, *(f"{found[length]:.1%}" if length in found else "-" for length in lengths)))
    return f"{len(common)} tasks:\n\n" + console.table(("run", *(f"{length:,}" for length in lengths)), rows)


@style
def compare(runs: Mapping[str, dict]):
    """Left the share of right answers by length, with one standard error; right that of each task at the longest
    length that all runs have."""
    from matplotlib.figure import Figure

    common = _common(runs)
    figure = Figure(figsize=(2 * SIZE[0], max(SIZE[1], 1.2 + 0.22 * len(common))), layout="constrained")
    left, right = figure.subplots(1, 2)
    shared = set.intersection(*(set(result["lengths"]) for result in runs.values()))
    for number, (name, result) in enumerate(runs.items()):
        look = {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)]}
        lengths, means, errors, _ = np.array(overall(result, common.__contains__) or np.zeros((0, 4))).T
        band(left, lengths, means, errors, label=name, **look)
        if shared:
            cells = {task["name"]: task["cells"][result["lengths"].index(max(shared))] for task in result["tasks"]}
            places = np.arange(len(common)) + 0.2 * (number - (len(runs) - 1) / 2)  # equal shares stay apart
            right.plot([share(cells[task]) for task in common], places, linestyle="none", **look)
    length_axis(left.xaxis, sorted({length for result in runs.values() for length in result["lengths"]}))
    left.set(xlabel="context length (tokens)", ylabel=f"right answers, {len(common)} tasks", ylim=(0, 1))
    left.legend()
    right.set_yticks(np.arange(len(common)), common)
    right.set(xlim=(-0.03, 1.03), title=f"at {max(shared):,} tokens" if shared else "no length in common")
    right.invert_yaxis()
    right.set_xlabel("right answers", color=MUTED)
    return figure


def _common(runs: Mapping[str, dict]) -> list[str]:
    """The tasks that all runs were asked, in the order of the first."""
    asked = [{task["name"] for task in tasks_asked(result)} for result in runs.values()]
    return [
        task["name"] for task in tasks_asked(next(iter(runs.values()))) if all(task["name"] in one for one in asked)
    ]
