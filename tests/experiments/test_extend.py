"""The context-extension experiment: its table and picture from numbers written by hand, and all of it in miniature."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import extend
from experiments.bench import results
from experiments.pictures import extension as figures
from experiments.run import checks, comparison, processes
from experiments.settings import config as configs
from experiments.settings.tree import ExtendConfig, Settings
from longctx.config import ModelConfig, RecallConfig, RopeConfig
from longctx.errors import UserError
from longctx.evals import predictor
from longctx.evals.tasks import recall as recall_eval
from longctx.positions import api as positions
from longctx.positions import extension, methods, view
from pallas_kernels.masks import Causal, TokenInfo
from tests.helpers import ROOT, fast_compile

REGIONS = "self_extend", "leaky_rerope", "rerope", "dca", "lm_infinite", "streaming"
RECALL = str(ROOT / "configs" / "recall.py")
CELLS = [{"asked": [4, 4], "right": [4, 3]}, {"asked": [0, 8], "right": [0, 2]}]
RESULT = {
    "name": "recall",
    "lengths": [256, 1024],
    "chance": 0.0625,
    "records": [
        {"name": "none", "how": "as trained", "value": [0.875, 0.25], "cells": CELLS},
        {"name": "pose", "how": "tuned for 2,048", "value": [1.0, None], "cells": [CELLS[0], None]},
    ],
}


def test_the_table_has_a_row_per_method_and_a_column_per_length():
    header, _, *rows = [line.split("  ") for line in extend.table(RESULT, 256).splitlines()]
    words = lambda row: [word.strip() for word in row if word.strip()]
    assert words(header) == ["method", "parameters", "x1", "x4"]
    assert [words(row) for row in rows] == [
        ["none", "as trained", "0.875", "0.250"],
        ["pose", "tuned for 2,048", "1.000", "-"],
    ]


def test_the_picture_shows_every_number_and_every_depth():
    overall, *by_depth, bar = figures.extension(RESULT).axes
    assert [text.get_text() for text in overall.texts] == ["88", "25", "100", "-"]
    assert [label.get_text() for label in overall.get_yticklabels()] == ["none", "pose, tuned for 2,048"]
    shares = [axes.collections[0].get_array() for axes in by_depth]
    np.testing.assert_array_equal(shares[0], [[1, 0.75]] * 2)
    assert shares[1].mask.tolist() == [[True, False], [True, True]] and shares[1][0, 1] == 0.25  # not asked: no colour
    assert "chance 6%" in bar.get_ylabel()


def test_the_picture_of_losses_has_a_line_per_method_where_there_are_rows():
    loss = {"name": "loss", "chance": None, "lengths": [16, 64], "records": []}
    cells = [{"document": [0, 1], "mean": [2.0, 2.0], "loss": [[1.0, 2.0, 3.0], [3.0, 2.0, None]]}, None]
    loss["records"] = [{"name": name, "how": "as trained", "cells": cells} for name in ("none", "yarn")]
    (axes,) = figures.extension(loss).axes
    assert [line.get_label() for line in axes.lines] == ["none", "yarn"] and axes.get_title() == "16"
    np.testing.assert_allclose(axes.lines[0].get_ydata()[:2], [2.0, 2.0])


@pytest.mark.parametrize("name", extension.EXTENSIONS)
@pytest.mark.parametrize("times", [1, 2, 3, 16])
def test_every_method_makes_settings_that_work(name, times):
    model = extension.EXTENSIONS[name](ModelConfig(), 64, 64 * times)
    positions.check(model.rope, model.head_dim)
    for kind in model.kinds:
        view.resolve(kind)


@pytest.mark.parametrize("name", extension.EXTENSIONS)
def test_a_length_inside_the_trained_one_is_read_as_that_is(name):
    at = functools.partial(extension.at, name, ModelConfig(), 64)
    assert at(16) == at(64) == extension.EXTENSIONS[name](ModelConfig(), 64, 64)
    assert (at(64) == ModelConfig()) == (name in ("none", "linear", "ntk", "yarn"))  # read once for all of them


def test_a_rope_that_is_scaled_already_is_scaled_from_where_it_was():
    """A model made for 256 tokens by YaRN from 64 on: at 256 it is itself, at 512 YaRN's factor is 8."""
    own = RopeConfig(theta=5e5, scaling="yarn", factor=4.0, original_length=64, beta_fast=4.0)
    model = ModelConfig(rope=own)
    assert extension.at("yarn", model, 256, 100) == model
    assert extension.at("yarn", model, 256, 512).rope == dataclasses.replace(own, factor=8.0)
    assert extension.at("ntk", model, 256, 512).rope == RopeConfig(5e5, "ntk", factor=8.0, original_length=64)


@pytest.mark.parametrize("name", REGIONS)
def test_methods_by_region_know_no_distance_beyond_the_trained_length(name):
    for T in (128, 200, 1024):
        model = extension.EXTENSIONS[name](ModelConfig(), 64, T)
        at = jnp.arange(T, dtype=jnp.int32)
        tokens = TokenInfo(at, jnp.ones_like(at))
        for part in methods.parse(model.position).parts():
            query, key = (TokenInfo(*(jnp.expand_dims(x, i) for x in tokens)) for i in (1, 0))
            seen = (Causal() & part.mask).visible(query, key)
            distances = (part.query(at)[:, None] - part.key(at)[None]) / part.divisor
            assert jnp.where(seen, distances, 0).max() <= 64, T


@pytest.mark.parametrize(
    "overrides, parts",
    [
        (["extend.methods=('none', 'yarm')"], ["extend.methods[1]='yarm'", "Did you mean 'yarn'?"]),
        (["extend.tunings=('pos',)"], ["extend.tunings[0]='pos'", "Did you mean 'pose'?"]),
        (["extend.lengths=(0, 512)"], ["extend.lengths=(0, 512) must all be at least 1"]),
        (["extend.tasks=('passkey',)"], ["extend.tasks=('passkey',) are for a model that is given", "'recall'"]),
        (["extend.tune_length=64"], ["extend.tune_length=64 is below"]),
        (["recall.needles=40"], ["recall.key_tokens=32 must be at least recall.needles=40"]),
        (["model.vocab_size=32"], ["model.vocab_size=32 must be at least 64"]),
    ],
)
def test_bad_settings_are_one_line(overrides, parts):
    argv = ["command", "--config", RECALL, *(f"--config.{override}" for override in overrides)]
    with pytest.raises(UserError) as caught:
        checks.check_extend(configs.from_command_line(argv)[0])
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in parts), message


def test_lengths_begin_inside_the_trained_one():
    lengths = lambda *given: extend._with_lengths(Settings(extend=ExtendConfig(lengths=given)), 64).extend.lengths
    assert lengths() == (64, 128, 256, 512, 1024)
    assert lengths(512, 128) == (64, 128, 512) and lengths(128, 16) == (16, 128)


# ---- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start, count, length, want",
    [
        (0, 8, 512, [8]),
        (0, 32, 2048, [8, 8, 8, 8]),
        (0, 20, 2048, [5, 5, 5, 5]),  # as even as can be: one shape
        (0, 7, 4096, [4, 3]),
        (5, 8, 1 << 20, [1, 1, 1]),
        (8, 8, 512, []),
    ],
)
def test_batches_are_as_large_as_the_work(start, count, length, want):
    parts = comparison.batches(start, count, length)
    assert [len(part) for part in parts] == want
    assert [row for part in parts for row in part] == list(range(start, count))


SAID = {"settings": {"seed": 0, "extend": {"rows": 4, "depths": 2}}, "model": {"weights": "ab"}}
CELL = comparison.Cell("recall", "yarn", "as trained", 64)


def records(tmp_path, said=SAID):
    return comparison.Records(tmp_path / "extend.jsonl", said, active=True)


def test_a_second_start_goes_on_where_a_line_is_whole(tmp_path):
    first = records(tmp_path)
    first.add(CELL, range(3), {"asked": [2, 1], "right": [1, 0]}, 1.5)
    first.add(CELL, range(3, 4), {"asked": [0, 1], "right": [0, 1]}, 0.5)
    assert not first.begun and first.done(CELL) == 4
    with (tmp_path / "extend.jsonl").open("a") as file:
        file.write('{"task": "recall", "method": "ya')  # killed while it wrote
    more = SAID | {"settings": {"seed": 0, "extend": {"rows": 9, "depths": 2}}}
    again = records(tmp_path, more)  # more rows are no other comparison
    assert again.begun and again.done(CELL) == 4 and again.done(CELL._replace(length=128)) == 0
    task = recall_eval.Recall(RecallConfig(), 4, 2, 0)
    assert again.counts(CELL, task) == {"asked": [2, 2], "right": [1, 1]} and again.seconds(CELL) == 2.0
    assert again.summary(CELL, task).words == "2 of 4 right (15% to 85%)"
    again.add(CELL, range(4, 5), {"asked": [1, 0], "right": [1, 0]}, 0.5)
    assert records(tmp_path).done(CELL) == 5


@pytest.mark.parametrize(
    "said, words",
    [
        (SAID | {"model": {"weights": "cd"}}, 'model.weights: "ab" (there) != "cd" (now)'),
        (SAID | {"settings": {"seed": 1, "extend": {"rows": 4, "depths": 2}}}, "seed: 0 (there) != 1 (now)"),
        (SAID | {"settings": {"seed": 0, "extend": {"rows": 4, "depths": 3}}}, "extend.depths: 2 (there) != 3 (now)"),
    ],
)
def test_another_comparison_is_named(tmp_path, said, words):
    records(tmp_path)
    with pytest.raises(UserError) as caught:
        records(tmp_path, said)
    assert words in str(caught.value) and "another --workdir" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    for content in ("[1]\n", "{}\n{}\n", "words\n"):
        (tmp_path / "extend.jsonl").write_text(content)
        with pytest.raises(UserError, match="is not what experiments.extend writes"):
            records(tmp_path)


def test_the_time_left_follows_the_flops_of_each_method():
    pace = comparison.Pace()
    pace.add("none", 1e9, 3.0, compiling=2.0)
    assert pace.left([("none", 4e9), ("yarn", 1e9)], shapes=3) == pytest.approx(4 + 1 + 3 * 2)
    pace.add("yarn", 4e9, 2.0, compiling=0.0)  # faster: no pairs beyond a window
    assert pace.left([("none", 4e9), ("yarn", 8e9)], shapes=0) == pytest.approx(4 + 4)


# ---- all of it ------------------------------------------------------------------------------------------------------


def run(workdir, *overrides: str) -> subprocess.CompletedProcess:
    said = ["--config", f"{RECALL}:smoke,seed=3", "--workdir", str(workdir), "--config.extend.tunings=('pose',)"]
    return subprocess.run(
        [sys.executable, "-m", "experiments.extend", *said, *(f"--config.{override}" for override in overrides)],
        cwd=ROOT,
        env=os.environ | fast_compile(),
        timeout=240,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_all_of_it_in_miniature(tmp_path):
    done = run(tmp_path, "extend.methods=('none', 'self_extend')")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "extend.json").read_text())
    (task,) = result["tasks"]
    assert (result["seed"], result["trained_length"], task["lengths"]) == (3, 32, [32, 64])
    assert [(record["name"], record["how"]) for record in task["records"]] == [
        ("none", "as trained"),
        ("self_extend", "as trained"),
        ("pose", "tuned for 64"),
    ]
    for record in task["records"]:
        asked, right = ([sum(cell[name]) for cell in record["cells"]] for name in ("asked", "right"))
        assert record["value"] == [r / a for r, a in zip(right, asked, strict=True)] and asked == [8, 8]
    assert result["training"]["steps"] == task["records"][2]["training"]["steps"] == 2
    lines = done.stdout.splitlines()
    assert lines[0].startswith("6 cells to read: 12 rows, ") and any(line.startswith("about ") for line in lines)
    order = [line.split(":")[0] for line in lines if line.startswith("recall at")]
    expected = ["32, none", "32, self_extend", "64, none", "64, self_extend"]
    expected += ["32, pose, tuned for 64", "64, pose, tuned for 64"]
    assert order == [f"recall at {cell}" for cell in expected]
    assert (tmp_path / "extend-recall.png").read_bytes().startswith(b"\x89PNG")
    again = run(tmp_path, "extend.methods=('none',)")
    assert again.returncode == 0 and again.stdout.startswith("0 cells to read"), again.stdout + again.stderr
    assert "steps of" not in again.stdout  # nothing is trained again
    (kept,) = json.loads((tmp_path / "extend.json").read_text())["tasks"]
    assert kept["records"] == [task["records"][0], task["records"][2]]
    other = run(tmp_path, "seed=4")
    assert other.returncode == 2 and "seed: 3 (there) != 4 (now)" in other.stderr and other.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_model_that_is_given_is_measured_on_a_text(tmp_path, folder, text, capsys, monkeypatch):
    """In rows that are all computed for something. Its tokenizer has no digits, so no passkeys can be asked for."""
    computed = []
    predictions = predictor._predictions
    monkeypatch.setattr(
        predictor, "_predictions", lambda *args: computed.append(args[2]["tokens"].shape) or predictions(*args)
    )
    said = ["data.holdout=0.5", f"data.path={text}", "extend.lengths=(80, 64)", "eval.documents=3"]
    said = [f"--config.{setting}" for setting in said]
    argv = ["extend", f"--config.init_from={folder}", f"--workdir={tmp_path / 'out'}", *said]
    extend.main([*argv, "--config.extend.methods=('none', 'linear')"])
    result = json.loads((tmp_path / "out/extend.json").read_text())
    found = {task["name"]: task for task in result["tasks"]}
    assert result["trained_length"] == 64 and found["loss"]["lengths"] == found["passkey"]["lengths"] == [64, 80]
    assert found["passkey"]["records"][0]["cells"] == [None, None]
    none, linear = found["loss"]["records"]
    columns, rows = results.table(result, "losses")
    assert columns[2:] == ["64", "80"] and rows[1] == ["linear", "as trained", *(f"{x:.3f}" for x in linear["value"])]
    columns, (whole, _) = results.table(result, "beyond")
    assert columns[2:] == ["up to 64", "from there to 80"]
    inside, outside = map(float, whole[2:])
    assert 0.8 * inside + 0.2 * outside == pytest.approx(none["value"][1], abs=2e-3)
    assert results.table(result, "passkeys")[1][0] == ["none", "as trained", None, None]
    assert none["value"][0] == linear["value"][0] and none["value"][1] != linear["value"][1]
    assert len(none["cells"][1]["loss"]) == computed[-1][0] == 3 and set(computed) == {(3, 64), (3, 80)}
    assert none["cells"][0] == linear["cells"][0] and computed.count((3, 64)) == 1  # settings that are the same
    assert "passkey has no rows of 64 tokens: a prompt is longer, or the" in capsys.readouterr().out
    written = (tmp_path / "out/extend.jsonl").read_bytes()
    with processes.hold(tmp_path / "out"), pytest.raises(UserError, match=r"out' is in use by process .*: wait for"):
        extend.main([*argv, "--config.extend.methods=('none', 'ntk')"])
    assert (tmp_path / "out/extend.jsonl").read_bytes() == written
    extend.main([*argv, "--config.extend.methods=('none', 'ntk')"])
    assert capsys.readouterr().out.startswith("2 cells to read: 6 rows, ")
    again = json.loads((tmp_path / "out/extend.json").read_text())["tasks"][1]["records"]
    assert again[0] == none and again[1]["name"] == "ntk"
