"""experiments.bench.claims over answers that are made up."""

import json

import pytest

from experiments import evaluate
from experiments.bench import claims
from experiments.bench.harness import options


def test_answers_are_counted_by_draw_and_by_where_the_fact_stands(tmp_path, monkeypatch, capsys):
    asked = []

    def evaluated(argv):
        asked.append(argv)
        lines = [
            {
                "task": task,
                "length": length,
                "index": index,
                "queries": [{"score": float(index < 3), "depth": depth(index), "chance": 0.1}] * 2,
            }
            for task, depth in (("icl_10", lambda index: None), ("threads_needle", lambda index: index / 6))
            for length in (512, 1024)
            for index in range(6)
        ]
        lines.insert(0, {"version": 1, "settings": {}})
        (tmp_path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(evaluate, "main", evaluated)
    out, picture = tmp_path / "found.json", tmp_path / "found.png"
    given = ["--checkpoint=MODEL", "--lengths=512,1024", "--samples=2", f"--workdir={tmp_path}"]
    assert options.command(claims.main, [*given, f"--out={out}", f"--picture={picture}", "config.seed=3"]) == 0
    assert asked[0][-2:] == ["--config.eval.samples=6", "--config.seed=3"] and "claims" in asked[0]
    records = json.loads(out.read_text())["records"]
    assert len(records) == 2 * 2 * claims.DRAWS
    threads = next(r for r in records if (r["task"], r["length"], r["draw"]) == ("threads_needle", 512, 1))
    assert threads["asked"] == [2, 0, 0, 2, 0, 0] and threads["right"] == [2, 0, 0, 0, 0, 0]
    assert claims.share(records, task="icl_10", length=512) == claims.share(records, task="icl_10", draw=0) == 0.5
    assert all(r["asked"][-1] == 4 for r in records if r["task"] == "icl_10")
    assert picture.stat().st_size > 10_000 and "50%" in capsys.readouterr().out


def test_bad_options_are_one_line(tmp_path, capsys):
    given = ["--checkpoint=MODEL", f"--workdir={tmp_path}", f"--out={tmp_path / 'nowhere' / 'found.json'}"]
    assert options.command(claims.main, given) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--out" in error
    with pytest.raises(SystemExit):
        claims.main(["--lengths=512"])
