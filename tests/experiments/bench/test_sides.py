"""The benchmarks at sizes that take seconds: every path but PyTorch's, which is an extra."""

import dataclasses
import itertools
import json
import socket

import numpy as np
import pytest

from experiments.bench import attention as bench_attention
from experiments.bench import memory as bench_memory
from experiments.bench import train_step as bench_train
from experiments.bench.attention import OURS, PASSES, Problem
from experiments.bench.harness import options, sides
from experiments.bench.harness.record import environment as environment_of
from experiments.settings import console, extras
from longctx.config import Config, ModelConfig, OptimConfig, StageConfig
from longctx.errors import UserError

TINY = Problem(length=48, heads=4, kv_heads=2, head_dim=8, dtype="float32", memory_limit_mb=100)


@pytest.fixture
def no_extras(monkeypatch):
    """Makes the packages of the extra [bench] look absent."""
    note = extras.not_installed(["torch"])
    monkeypatch.setattr(sides, "missing", lambda *packages: note if packages else "")


@pytest.mark.slow
def test_attention_command(tmp_path, capsys, no_extras):
    out, picture = tmp_path / "a.json", tmp_path / "a.png"
    argv = ["--lengths", "48", "--dtype", "float32", "--rounds", "1", "--out", str(out), "--picture", str(picture)]
    assert options.command(bench_attention.main, argv) == 0
    printed = capsys.readouterr().out
    records = json.loads(out.read_text())["records"]
    assert {(r["side"], r["pass"]) for r in records} == {(s, p) for s in bench_attention.SIDES for p in PASSES}
    for record in records:
        if record["side"] == bench_attention.TORCH:
            assert record["note"] == extras.not_installed(["torch"]) and record["best_s"] is None
        else:
            assert record["note"] == "" and 0 < record["best_s"] <= record["median_s"] and record["compile_s"] > 0
        assert (record["times_ours"] == 1) == (record["side"] == OURS)
    assert printed.count("pip install -e '.[bench]'") == len(PASSES)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_sides_compute_the_same():
    (ours, _), (dense, _) = (
        bench_attention.build_jax(attend, TINY) for attend in (bench_attention.chunked, bench_attention.dense)
    )
    for name in PASSES:
        assert ours["size"][name] == pytest.approx(dense["size"][name], rel=1e-5)


def test_side_over_the_memory_limit_is_not_run():
    ready, handlers = bench_attention.build_jax(bench_attention.dense, TINY._replace(memory_limit_mb=1e-4))
    assert handlers == {} and all("the limit is" in ready["skipped"][name] for name in PASSES)
    assert all(ready["temp_mb"][name] > 1e-4 for name in PASSES)


def test_a_side_that_fails_is_a_note():
    tasks = {"broken": {"side": "no such side", "problem": TINY._asdict()}}
    record = sides.compare("experiments.bench.attention", tasks, PASSES, rounds=1)["broken"]
    assert record["note"] == "KeyError: 'no such side'" and record["seconds"] == {name: [] for name in PASSES}


def tiny_config(task):
    model = ModelConfig(layers=1, d_model=16, mlp_dim=16, heads=2, kv_heads=1, head_dim=8, dtype=task["dtype"])
    stage = StageConfig(seq_len=task["length"], steps=task.get("agree") or 10)
    return Config(batch_tokens=task["batch_tokens"], stages=(stage,), model=model, optim=OptimConfig(warmup_steps=1))


@pytest.mark.slow
def test_our_train_step_is_timed_and_learns(monkeypatch):
    monkeypatch.setattr(bench_train, "config_of", tiny_config)
    monkeypatch.setattr(bench_train, "text_windows", lambda B, T: itertools.repeat(np.full((B, T + 1), 7, np.int32)))
    ready, handlers = bench_train.build(
        {"side": bench_train.OURS, "dtype": "float32", "length": 32, "batch_tokens": 64, "agree": 12}
    )
    assert ready["compile_s"] > 0 and ready["parameters"] > 0
    losses = handlers["train"]()["losses"]
    assert len(losses) == 12 and losses[-1] < losses[0]
    assert all(seconds > 0 for seconds in handlers["step"]()["seconds"])


def test_text_windows_are_real_text():
    window = next(bench_train.text_windows(2, 300))
    assert window.shape == (2, 301) and window.dtype == np.int32 and window.max() < 256
    assert any(word in bytes(window.astype(np.uint8).ravel()) for word in (b"def ", b"self", b"return", b"    "))


def test_agreement_workload_is_the_default_run():
    config = bench_train.config_of({"dtype": "float32", "length": 512, "batch_tokens": 8192, "agree": 200})
    assert config.model == dataclasses.replace(ModelConfig(), dtype="float32")
    assert config.stages == (StageConfig(seq_len=512, steps=200),)


def said(seconds, peak, note="", compile_s=None):
    times = {"compile_s": compile_s, "predicted_s": compile_s and 0.55}
    return {"seconds": {"step": seconds}, "peak_mb": peak, **times, "parameters": 1, "note": note}


def test_train_ratios_and_targets(monkeypatch):
    canned = {
        "longctx bfloat16": said([0.5, 0.7], 1600, compile_s=4.0),
        "PyTorch bfloat16": said([0.8], 900),
        "PyTorch float32": said([1.0, 1.2], 1000),
    }
    monkeypatch.setattr(sides, "compare", lambda module, tasks, *_: {side: canned[side] for side in tasks})
    records = bench_train.measure(512, ["bfloat16"], 8192, rounds=2)
    ours = next(r for r in records if r["side"] == "longctx bfloat16")
    assert ours["tokens_per_s"] == 8192 / 0.5 and ours["median_tokens_per_s"] == pytest.approx(8192 / 0.6)
    assert ours["speed_over_torch_float32"] == 2.0 and ours["speed_over_torch_same_dtype"] == 1.6
    agreed = {"steps": 200, "length": 512, "relative_difference": 0.02}
    assert [t["result"] for t in bench_train.targets(records, agreed)] == ["ok", "missed", "ok", "ok", "ok", "missed"]
    assert ours["predicted_over_best"] == pytest.approx(1.1)
    assert "longctx bfloat16" in bench_train.show(records)


def test_train_without_torch_has_no_ratio(monkeypatch):
    note = extras.not_installed(["torch"])
    canned = {
        "longctx float32": said([0.5], 600, compile_s=4.0),
        "PyTorch float32": {"seconds": {"step": []}, "note": note},
    }
    monkeypatch.setattr(sides, "compare", lambda *_: canned)
    records = bench_train.measure(512, ["float32"], 8192, rounds=1)
    assert [t["result"] for t in bench_train.targets(records, None)] == [
        "not measured",
        "not measured",
        "ok",
        "ok",
        "ok",
    ]
    assert note in bench_train.show(records)


@pytest.mark.slow
def test_memory_command(tmp_path, capsys):
    out = tmp_path / "m.json"
    assert options.command(bench_memory.main, ["--lengths", "64", "--chunk", "16", "--out", str(out)]) == 0
    printed, records = capsys.readouterr().out, json.loads(out.read_text())["records"]
    assert [r["side"] for r in records] == list(bench_memory.SIDES) and all(r["note"] == "" for r in records)
    assert all(r["seconds"] > 0 and r["peak_mb"] > 0 and r["temp_mb"] > 0 for r in records)
    assert records[0]["time_over_autodiff"] == records[0]["memory_over_autodiff"] == 1
    losses = [line for line in printed.splitlines() if "difference in loss" in line]
    assert len(losses) == 2 and all(line.endswith("ok") for line in losses)


@pytest.mark.parametrize(
    "main, argv, says",
    [
        (bench_attention.main, ["--lengths", "2k"], "--lengths=2k must be whole numbers"),
        (bench_attention.main, ["--dtype", "bfloat61"], "Did you mean 'bfloat16'?"),
        (bench_attention.main, ["--heads", "4", "--kv-heads", "3"], "--kv-heads=3 must divide --heads=4"),
        (
            bench_attention.main,
            ["--picture", "no/such/folder/a.png"],
            "--picture=no/such/folder/a.png cannot be written",
        ),
        (bench_memory.main, ["--lengths", "100"], "--chunk=4096 must divide --lengths=100"),
        (bench_train.main, ["--lengths", "1000"], "batch_tokens=8192 is not a multiple"),
        (bench_train.main, ["--out", "no/such/folder/a.json"], "--out=no/such/folder/a.json cannot be written"),
    ],
)
def test_bad_arguments_are_one_line(capsys, main, argv, says):
    assert options.command(main, argv) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_unknown_option_is_one_line(capsys):
    with pytest.raises(SystemExit) as exit_:
        options.command(bench_train.main, ["--lenghts", "512"])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and "--lenghts" in error and error.count("\n") == 1


def test_environment_names_no_host_and_no_path():
    environment = environment_of()
    assert environment["threads"] >= 1 and environment["jax"] and environment["date"]
    assert socket.gethostname() not in environment.values()
    assert str(sides.ROOT) not in json.dumps(environment)


def test_table_and_numbers():
    lines = console.table(("n", "side"), [(5, "a"), (10, "bb")]).splitlines()
    assert lines == [" n  side", "--  ----", " 5  a", "10  bb"]
    texts = [console.number(x) for x in (None, 0.0123456, 1.5, 12.345, 7513.4)]
    assert texts == ["-", "0.0123", "1.5", "12.3", "7513"]


def test_whole_numbers():
    assert console.whole_numbers("--lengths", "512, 2048") == [512, 2048]
    with pytest.raises(UserError, match="--lengths=0,5"):
        console.whole_numbers("--lengths", "0,5")
