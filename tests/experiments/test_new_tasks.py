"""An evaluation and a generated task of one's own: a file and a line each, and they are trained on and shown."""

import json

import pytest

from experiments import report
from longctx.evals import drawing
from longctx.evals.api import EVALS
from longctx.evals.task import Task
from tests.experiments.train_helpers import ended_well, losses

TASKS = '''
"""A generated task: letters that count up. An evaluation: the loss of rows of nothing but the letter a."""

import numpy as np

from longctx.data.generated.task import Generated
from longctx.data.generated.writing import Writer
from longctx.evals import batches, drawing
from longctx.evals.task import Task


class Counting(Generated):
    """The alphabet, over and over."""

    smallest = 8

    def lengths(self, tokenizer):
        return 8, 8

    def write(self, rng, size, documents):
        writer = Writer(size)
        writer.say("abcd")
        writer.answer("efgh")
        return writer.written()

    def solve(self, before, documents):
        return "efgh"


def run(predictor, documents, tokenizer, config, lengths, seed):
    loss = []
    for length in lengths:
        ids = np.concatenate([[tokenizer.bos], np.full(length, ord("a"))]).astype(np.int32)
        ((prediction,),) = batches.score(predictor, [[batches.Piece(ids[:-1], ids[1:])]], length, tokenizer.pad)
        loss.append(batches.number(prediction.nll.mean()))
    return {"lengths": list(lengths), "loss": loss}


def finding(result, trained):
    return f"At {result['lengths'][-1]} tokens: {result['loss'][-1]:.3f} nats, trained at {trained}."


def figure(result, lengths, trained):
    figure, axes = drawing.new_figure()
    axes.plot(result["lengths"], result["loss"])
    axes.set(xlabel="length (tokens)", ylabel="nats of a letter a")
    return figure


TASK = Task(
    run,
    title="Letters a",
    caption="Nothing but the letter a.",
    finding=finding,
    figure=figure,
    fills_every_length=True,
)
'''
REGISTERED = """
import runpy, sys
sys.path.insert(0, {folder!r})
import mine
from longctx.data.generated.api import GENERATED
from longctx.evals.api import EVALS
GENERATED["counting"] = mine.Counting
EVALS["letters"] = mine.TASK
sys.argv.pop(0)
runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_task_of_ones_own_is_trained_on_measured_and_shown(tiny, tmp_path):
    (tmp_path / "mine.py").write_text(TASKS)
    workdir = tmp_path / "run"
    settings = (
        "data.generated=('copying(0.1)','counting(0.5)')",
        "eval.tasks=('letters','by_position')",
        "eval.lengths=(32,64)",
    )
    done = tiny.python("-c", REGISTERED.format(folder=str(tmp_path)), *tiny.command(workdir, *settings)[1:])
    assert "evaluated letters in" in ended_well(done)
    found = json.loads((workdir / "evals.json").read_text())["letters"]
    page = (workdir / "report.html").read_text()
    assert f"At 64 tokens: {found['loss'][-1]:.3f} nats, trained at 128." in page
    assert "<h2>Letters a</h2><svg" in page and "nats of a letter a" in page
    assert (workdir / "figures" / "letters.png").read_bytes().startswith(b"\x89PNG")
    # half of the tokens have a period of ten: far more predictable than the text alone
    alone = tmp_path / "alone"
    ended_well(tiny.train(alone))
    assert losses(workdir)[-1][1] < losses(alone)[-1][1] - 0.3


def test_a_report_shows_what_it_knows_of_any_evaluation(tmp_path, monkeypatch):
    """Results without a task of that name are left out; a task without results says how to get them."""
    (tmp_path / "metrics.jsonl").write_text('{"event": "stage", "stage": 0, "seq_len": 512, "step": 0}\n')
    (tmp_path / "evals.json").write_text(json.dumps({"removed": [1], "toy": {"share": 0.5}}))
    draw = lambda result, lengths, trained: drawing.new_figure()[0]
    monkeypatch.setitem(EVALS, "toy", Task(None, "A toy", "A caption.", lambda result, trained: "Half of it.", draw))
    monkeypatch.setitem(EVALS, "later", Task(None, "Later", "A caption.", None, None))
    page = report.write(tmp_path).read_text()
    assert "<strong>Half of it.</strong>" in page and "removed" not in page
    assert page.index("<h2>Passkey retrieval</h2>") < page.index("<h2>A toy</h2>") < page.index("<h2>Later</h2>")
    assert (
        page.count("python -m experiments.evaluate --workdir")
        == sum(not task.by_request for task in EVALS.values()) - 1
    )
