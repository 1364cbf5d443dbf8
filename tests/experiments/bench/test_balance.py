"""The benchmark of layouts, at sizes that take seconds, and the step that it predicts."""

import json

import numpy as np
import pytest

from experiments.bench import balance as bench_balance
from experiments.bench.harness import options
from experiments.hardware.targets import CHIPS
from experiments.meter import lengths
from experiments.planner import attention_step


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_balance, "ROWS", 1)
    monkeypatch.setattr(bench_balance, "RANKS", (2,))
    monkeypatch.setattr(bench_balance, "DRAWS", {2: 1, 4: 1})
    out, picture = tmp_path / "balance.json", tmp_path / "balance.png"
    argv = ["--lengths", "web,code", "--shards", "2,4", "--tokens", "1024"]
    argv += ["--out", str(out), "--picture", str(picture)]
    assert options.command(bench_balance.main, argv) == 0
    printed = capsys.readouterr().out
    said = json.loads(out.read_text())
    assert {(r["kind"], r["shards"], r["layout"]) for r in said["records"]} == {
        (kind, shards, layout) for kind in ("web", "code") for shards in (2, 4) for layout in bench_balance.LAYOUTS
    }
    assert {(r["shards"], r["layout"], r["exchange"]) for r in said["library"]} == {
        (shards, *way) for shards in (2, 4) for way in bench_balance.CHOICES
    }
    assert all(r["work"] >= 1 and r["lockstep"] >= r["work"] and r["padding"] == 0 for r in said["records"])
    assert all(r["ms"] > 0 for r in said["library"]) and "assumed" in printed
    assert all(1 <= r["dealt"] <= r["drawn"] for r in said["ranks"])
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--tokens", "1000"], "--tokens=1000 must be a multiple of 512"),
        (["--lengths", "wed"], "Did you mean 'web'"),
        (["--shards", "two"], "--shards=two must be whole numbers"),
    ],
)
def test_options_that_are_refused(argv, words, capsys):
    assert options.command(bench_balance.main, argv) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.parametrize("kind", lengths.KINDS)
def test_documents_fill_a_row(kind):
    lengths = bench_balance.documents(kind, 1 << 18, seed=1)
    assert sum(lengths) == 1 << 18 and min(lengths[:-1]) >= 16
    assert lengths == bench_balance.documents(kind, 1 << 18, seed=1)


# two shards of 4 blocks: the first has 6 pairs of blocks of its own, the second 3 and 8 with the first one's keys
COMPUTED, NEEDED = np.array([[6, 0], [8, 3]]), np.array([[3, 0], [4, 2]])


@pytest.mark.parametrize(
    "exchange, move, expected",
    [
        ("ring", 0.0, 6 + 8),
        ("ring", 10.0, 40 + 8),
        ("by need", 0.0, 11),
        ("by need", 1.0, 4 + 11),
        ("by need", 10.0, 40 + 11),
    ],
)
def test_what_a_step_waits_for(exchange, move, expected):
    assert attention_step.EXCHANGES[exchange](COMPUTED, NEEDED, 4, 1.0, move) == expected


def test_seconds_of_a_layer():
    """Two full shards on one node, all that is needed at home or hidden: FLOPs over the rate that the kernels reach."""
    chip, layer = CHIPS["h100"], attention_step.Layer(heads=32, kv_heads=1, head_dim=128, block=256)
    computed = np.full((2, 2), 10_000)
    flops = np.array([4, 10]) * 20_000 * 256**2 * 32 * 128
    expected = (flops / (chip.tflops * 1e12) / [chip.forward, chip.backward]).sum()
    for exchange, needed in (("ring", np.ones((2, 2))), ("by need", np.eye(2))):
        assert attention_step.seconds(exchange, (computed, needed), 1, layer, chip) == pytest.approx(expected)


@pytest.mark.parametrize("shards", [2, 64])
def test_from_where_on_a_ring_is_hidden(shards):
    """At that length half of all block pairs compute for as long as the blocks of keys travel."""
    chip, layer = CHIPS["h100"], attention_step.Layer(heads=32, kv_heads=8, head_dim=128, block=256)
    ways = zip(
        attention_step.hidden_from(layer, chip, shards), layer.computing(chip), layer.moving(chip, shards), strict=True
    )
    for tokens, compute, move in ways:
        blocks = tokens / layer.block
        assert blocks**2 / 2 * compute == pytest.approx(blocks * move)
