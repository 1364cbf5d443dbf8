"""The context-extension experiment: its table and picture from numbers written by hand, and all of it in miniature."""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import extend
from experiments.pictures import extension as figures
from experiments.run import checks
from experiments.settings import config as configs
from longctx.config import ModelConfig
from longctx.errors import UserError
from longctx.positions import api as positions
from longctx.positions import extension, methods, view
from pallas_kernels.masks import Causal, TokenInfo
from tests.helpers import ROOT, fast_compile

RECALL = str(ROOT / "configs" / "recall.py")
CELLS = [[{"asked": 4, "right": 4}, {"asked": 4, "right": 3}], [{"asked": 0, "right": 0}, {"asked": 8, "right": 2}]]
RESULT = {
    "trained_length": 256,
    "lengths": [256, 1024],
    "chance": 0.0625,
    "records": [
        {"name": "none", "how": "as trained", "accuracy": [0.875, 0.25], "cells": CELLS},
        {"name": "pose", "how": "tuned for 2,048", "accuracy": [1.0, 0.5], "cells": CELLS},
    ],
}


def test_the_table_has_a_row_per_method_and_a_column_per_length():
    header, _, *rows = [line.split("  ") for line in extend.table(RESULT).splitlines()]
    words = lambda row: [word.strip() for word in row if word.strip()]
    assert words(header) == ["method", "parameters", "x1", "x4"]
    assert [words(row) for row in rows] == [
        ["none", "as trained", "0.875", "0.250"],
        ["pose", "tuned for 2,048", "1.000", "0.500"],
    ]


def test_the_picture_shows_every_number_and_every_depth():
    overall, *by_depth, bar = figures.extension(RESULT).axes
    assert [text.get_text() for text in overall.texts] == ["88", "25", "100", "50"]
    assert [label.get_text() for label in overall.get_yticklabels()] == ["none", "pose, tuned for 2,048"]
    shares = [axes.collections[0].get_array() for axes in by_depth]
    np.testing.assert_array_equal(shares[0], [[1, 0.75]] * 2)
    assert shares[1].mask[:, 0].all() and (shares[1][:, 1] == 0.25).all()  # nothing asked: no colour
    assert "chance 6%" in bar.get_ylabel()


@pytest.mark.parametrize("name", extension.EXTENSIONS)
@pytest.mark.parametrize("times", [1, 2, 3, 16])
def test_every_method_makes_settings_that_work(name, times):
    model = extension.EXTENSIONS[name](ModelConfig(), 64, 64 * times)
    positions.check(model.rope, model.head_dim)
    for kind in model.kinds:
        view.resolve(kind)


@pytest.mark.parametrize("name", ["self_extend", "leaky_rerope", "rerope", "dca", "lm_infinite", "streaming"])
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
        (["extend.lengths=(128, 512)"], ["extend.lengths=(128, 512): 128 is below", "256 or more"]),
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


def test_all_of_it_in_miniature(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.extend",
            "--config",
            f"{RECALL}:smoke,seed=3",
            "--workdir",
            str(tmp_path),
            "--config.extend.methods=('none', 'self_extend')",
            "--config.extend.tunings=('pose',)",
        ],
        cwd=ROOT,
        env=os.environ | fast_compile(),
        timeout=240,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "extend.json").read_text())
    assert (result["seed"], result["lengths"]) == (3, [32, 64])
    assert [(record["name"], record["how"]) for record in result["records"]] == [
        ("none", "as trained"),
        ("self_extend", "as trained"),
        ("pose", "tuned for 64"),
    ]
    for record in result["records"]:
        asked = [sum(cell["asked"] for cell in parts) for parts in record["cells"]]
        right = [sum(cell["right"] for cell in parts) for parts in record["cells"]]
        assert record["accuracy"] == [r / a for r, a in zip(right, asked, strict=True)]
    assert "self_extend" in done.stdout and (tmp_path / "extend.png").read_bytes().startswith(b"\x89PNG")
