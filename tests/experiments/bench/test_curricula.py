"""experiments.bench.curricula: its arms, counts, tables and, in miniature, all of it."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.bench import curricula as command
from experiments.bench.harness import curricula, curricula_tables
from experiments.bench.harness.curricula import ARMS, Size
from experiments.pictures import curricula as figures
from experiments.planner.work import work
from longctx import meshes, training
from longctx.data import curriculum, windows
from longctx.errors import UserError
from pallas_kernels import masks

SMALL = Size(length=64, short=16, steps=5, batch_tokens=128, width=32, windows=4)


def batch_of(*rows: list[int]) -> dict[str, np.ndarray]:
    """A batch of rows of segments, positions from 0 in each."""
    segments = np.array(rows, np.int32)
    positions = np.zeros_like(segments)
    for row, of in zip(positions, segments, strict=True):
        for segment in set(of) - {0}:
            row[of == segment] = np.arange((of == segment).sum())
    return {"positions": positions, "segments": segments, "weights": (segments > 0).astype(np.float32)}


@pytest.mark.parametrize("size", [Size(), SMALL], ids=["whole", "small"])
def test_all_arms_see_as_many_tokens_at_one_rate(size):
    base, plans = curricula.settings(ARMS[figures.BASE], size, 1), {}
    for name, arm in ARMS.items():
        config = curricula.settings(arm, size, 1)
        assert (config.optim, config.model, config.seed) == (base.optim, base.model, 1), name
        plans[name] = curriculum.plan(config)
    assert {sum(one.steps * one.batch_tokens for one in plan) for plan in plans.values()} == {
        size.steps * size.batch_tokens
    }
    assert {curriculum.total_steps(plan) for plan in plans.values()} == {size.steps}
    assert [one.seq_len for one in plans["switch at 40%"]] == [size.short, size.length]
    assert plans["switch at 40%"][0].steps == round(0.4 * size.steps)
    assert [one.seq_len for one in plans["short alone"]] == [size.short]


def test_a_share_that_is_none_is_refused():
    with pytest.raises(UserError, match="from 0 to 1"):
        curricula.settings(curricula.Arm(short=1.5), SMALL)


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "not aligned"])
def test_pairs_and_blocks_are_those_that_the_masks_leave(aligned):
    """A kernel knows of a block its ranges alone: where documents end inside of blocks, it visits a few for nothing."""
    unaligned = batch_of([1] * 9 + [2] * 4 + [0] * 3, [1] * 2 + [2] * 14)
    batch = batch_of([1] * 8 + [2] * 4 + [0] * 4, [1] * 16) if aligned else unaligned
    kinds = ("causal & window(4)", 4, 1), ("causal", None, 2)
    counted = curricula.Tally(kinds, block=4)
    assert len(list(counted.through([batch, batch]))) == 2
    pairs = slots = 0
    info = masks.TokenInfo(batch["positions"], batch["segments"])
    for mask, _, layers in kinds:
        see = np.asarray(masks.visible(masks.within_documents(masks.parse(mask)), info, info))
        pairs += layers * see.sum()
        slots += layers * 16 * see.reshape(2, 4, 4, 4, 4).any((2, 4)).sum()
    assert counted.pairs == 2 * pairs
    assert counted.slots == 2 * slots if aligned else 2 * slots <= counted.slots < 2.5 * slots
    assert counted.targets == counted.tokens == 2 * (28 if aligned else 29)
    assert counted.segments == 2 * (3 if aligned else 4)


def test_flops_of_whole_rows_are_those_of_the_planner():
    config = curricula.settings(ARMS[figures.BASE], SMALL)
    mesh = meshes.make(config.mesh)
    counted, (stage,) = curricula.tally(config), curriculum.plan(config)
    assert counted.kinds == (("causal & window(4)", 4, 1), ("causal", None, 1)) and counted.block == 256
    for _ in range(stage.steps):
        counted.add(batch_of(*[[1] * stage.seq_len] * stage.batch_size))
    found = curricula.flops(config, mesh, counted)
    params = training.abstract_state(config, mesh)["params"]
    planned = stage.steps * work(config, params, stage.seq_len, stage.batch_size).model
    assert found["needed"] == pytest.approx(planned, rel=1e-6) == found["linear"] + found["attention"]
    assert found["attention_computed"] == pytest.approx(2 * 128 * SMALL.steps * 64 * 4 * 32 * 3.5)
    assert found["computed"] > found["linear"] + found["attention_computed"]


def test_arms_are_fed_what_they_say():
    bench, fed = command.Bench(Size(length=1024, short=256, steps=60, longest=4096, windows=1)), {}
    for name, arm in ARMS.items():
        config = curricula.settings(arm, bench.size)
        for stage in curriculum.plan(config):
            stream = bench.stream(arm, config, stage)
            fed[name, stage.seq_len] = [next(stream) for _ in range(stage.steps)]
            stream.close()
    pieces = {key: [np.bincount(row)[1:] for batch in of for row in batch["segments"]] for key, of in fed.items()}
    sizes = {key: set(np.concatenate(of)) for key, of in pieces.items()}
    for order in ("uniform", "grow_p2"):
        assert sizes[f"decomposition {order}", 1024] == {256, 512, 1024}
    assert sizes["no borders", 1024] == {1024} and max(sizes["short alone", 256]) == 256
    assert max(sizes["cut at 128", 1024]) == 128
    longest = [max(map(max, map(np.bincount, batch["segments"]))) for batch in fed["skyladder", 1024]]
    (stage,) = curriculum.plan(curricula.settings(ARMS["skyladder"], bench.size))
    assert longest[0] == 32 and (longest <= windows.table(stage)).all() and max(longest[39:]) > 512
    tokens = {key: np.stack([batch["tokens"] for batch in of]) for key, of in fed.items()}
    same = tokens["concat_and_cut", 1024]
    for name in ("no borders", "skyladder", "cut at 128"):
        assert (tokens[name, 1024] == same).all()  # cut otherwise
    assert (tokens["best_fit", 1024] != same).any()
    assert len(fed["switch at 80%", 256]) == 48 and len(fed["switch at 80%", 1024]) == 12


def test_rows_without_borders_are_one_document():
    class Rows:
        fingerprint = 7

        def __len__(self):
            return 3

        def longest(self, rows):
            return rows

        def gather(self, rows):
            return batch_of([1, 1, 2, 2, 2, 0]) | {"tokens": rows}

    joined = curricula.Joined(Rows())
    batch = joined.gather(np.arange(1))
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 4, 0]] and batch["segments"].tolist() == [[1, 1, 1, 1, 1, 0]]
    assert batch["tokens"].tolist() == [0]
    assert (len(joined), joined.fingerprint, joined.longest(np.arange(2)).tolist()) == (3, 7, [0, 1])


def made() -> dict:
    """What a benchmark of two seeds of some arms might write."""
    fed = {"targets": 90, "tokens": 90, "slots": 100, "segments": 9}
    flops = dict.fromkeys(("linear", "attention", "needed", "attention_computed", "computed"), 2e12)
    arms = {figures.BASE: 0.0, "decomposition uniform": 0.1, "decomposition grow_p2": 0.3, "switch at 20%": 0.0}
    records = [
        {"arm": name, "seed": seed, "mean": 2 + seed + more, "loss": [3.0, 1.0 + seed + more], "fed": fed}
        | {"flops": flops}
        for seed in (0, 1)
        for name, more in arms.items()
    ]
    times = [{"arm": name, "seconds": 1.0} for name in arms]
    return {"records": records, "edges": [0, 16, 32], "times": times}


def test_differences_are_of_one_seed():
    content = made()
    found = figures.differences(content["records"], "decomposition uniform", figures.mean_loss)
    assert found == pytest.approx([0.1, 0.1])
    mean, half = figures.interval([1.0, 2.0, 3.0])
    assert (mean, half) == pytest.approx((2.0, 2.4843), rel=1e-3)  # Student's t of two degrees of freedom
    assert np.isnan(figures.interval([1.0])[1])


def test_tables_mark_what_shows():
    content = made()
    columns, lines = curricula_tables.learned(content)
    assert columns[2] == "minus concat_and_cut" and lines[0] == [figures.BASE, "2.500 ± 0.707", "", "2.000"]
    assert lines[1][2] == "**+0.100 ± 0.000**" and lines[3][2] == "+0.000 ± 0.000"
    _, lines = curricula_tables.taken(content)
    assert lines[0] == [figures.BASE, "90.00", "10", *["2.000"] * 4, "1.0"]
    columns, lines = curricula_tables.positioned(content)
    assert columns == ["arm", "0 to 16", "16 to 32"] and lines[0][1:] == ["3.000", "1.500"]
    columns, lines = curricula_tables.contrasts(content)
    assert columns[-1] == "from 16 to 32"
    assert lines[1][0] == "decomposition grow_p2 minus decomposition uniform" and lines[1][2] == "+0.200 / +0.200"


def test_bins_are_powers_of_two():
    assert curricula.edges(64) == [0, 16, 32, 64] and curricula.edges(100) == [0, 16, 32, 64, 100]
    nll = np.arange(64.0)[None].repeat(2, 0)
    assert curricula.by_bin(nll, 64) == [7.5, 23.5, 47.5]


def test_results_of_another_size_are_not_mixed(tmp_path):
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"size": dataclasses.asdict(SMALL), "command": "c"}))
    assert command.found_before(str(path), SMALL) == {"size": dataclasses.asdict(SMALL)}
    with pytest.raises(UserError, match="other sizes"):
        command.found_before(str(path), Size())


@pytest.mark.slow
def test_every_arm_is_trained_read_and_timed_once(tmp_path, capsys, monkeypatch):
    out, picture = tmp_path / "found.json", tmp_path / "found.png"
    given = ["--length=64", "--short=16", "--steps=4", "--batch-tokens=128", "--windows=4", "--width=32"]
    given += ["--timed=2", "--rounds=2", f"--out={out}", f"--picture={picture}"]
    arms = "concat_and_cut", "no borders", "decomposition grow_p2", "skyladder", "switch at 40%"
    assert command.main([*given, "--seeds=1", f"--arms={','.join(arms[:-1])}"]) == 0
    assert command.main([*given, "--seeds=1", f"--arms={','.join(arms)}"]) == 0
    content = json.loads(out.read_text())
    records = {record["arm"]: record for record in content["records"]}
    assert [record["arm"] for record in content["records"]] == list(arms)
    assert {record["fed"]["slots"] for record in records.values()} == {512}
    needed = {name: record["flops"]["needed"] for name, record in records.items()}
    assert needed["no borders"] == max(needed.values())
    assert max(needed["skyladder"], needed["switch at 40%"]) < needed["concat_and_cut"]
    assert all(len(record["loss"]) == 3 and np.isfinite(record["loss"]).all() for record in records.values())
    assert [time["arm"] for time in content["times"]] == list(arms) and len(content["times"][0]["ms"]) == 2
    assert picture.stat().st_size > 10_000 and "switch at 40%" in capsys.readouterr().out.splitlines()[-1]
    monkeypatch.delattr(command, "measure")  # nothing is left to be trained
    assert command.main([*given, "--seeds=1", f"--arms={','.join(arms)}"]) == 0
