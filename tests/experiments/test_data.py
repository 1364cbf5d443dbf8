"""experiments.data: what it counts, and what it shows of the rows of a run."""

import types

import numpy as np
import pytest

from experiments import data
from experiments.pictures import feed
from longctx.data import rows
from longctx.data.packing.api import COMPARED, PACKINGS
from longctx.data.texts import Text
from longctx.data.tokenizers import ByteTokenizer
from longctx.errors import UserError
from tests.helpers import ROOT

SMOKE = f"--config={ROOT / 'configs/quickstart.py'}:smoke"


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i}.txt").write_text(f"document {i} " + "with words " * (5 * i + 1))
    return f"--config.data.path={folder}"


def test_a_config_is_shown_and_nothing_is_trained(tmp_path, text, capsys):
    changed = ["--config.data.packing=concat_and_cut", "--config.data.generated=('copying(0.25)',)"]
    data.main(["data", SMOKE, text, f"--workdir={tmp_path / 'out'}", *changed])
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    stages = [line for line in lines if line[1:3] == ["256", "text"] or line[1:3] == ["256", "copying"]]
    (rows, generated) = (int(line[3]) for line in stages)
    assert generated == pytest.approx(rows / 3, abs=1) and stages[0][4:6] != stages[1][4:6]
    packed = {line[1]: line[2] for line in lines if line[:1] == ["text"]}
    assert packed.keys() >= {"best_fit", "concat_and_cut", "decomposition", "none"} and packed["concat_and_cut"] == "*"
    assert "count in the loss" in said and "with words" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data.png"]
    assert (tmp_path / "out" / "data.png").stat().st_size > 10_000


def test_sources_are_told_apart(tmp_path, capsys):
    for name in ("code", "web"):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{name} {"x" * i}"}}\n' for i in range(200)))
    code, web = (str(tmp_path / f"{name}.jsonl") for name in ("code", "web"))
    config = tmp_path / "mixed.py"
    config.write_text(
        "from experiments.settings import defaults, source, stage\n"
        "def get_config(arg=''):\n"
        "    config = defaults()\n"
        "    config.stages = (stage(seq_len=128, steps=40), stage(seq_len=256, steps=40, mix=('web(1)',)))\n"
        "    config.batch_tokens = 1024\n"
        f"    config.data.mix = (source('code', {code!r}, 3), source('web', {web!r}, shortest=50))\n"
        "    return config\n"
    )
    data.main(["data", f"--config={config}", f"--workdir={tmp_path / 'out'}"])
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    rows = {tuple(line[:3]): int(line[3]) for line in lines if line[1:2] in (["128"], ["256"])}
    assert rows == {
        ("1", "128", "code"): 240,
        ("1", "128", "web"): 80,
        ("2", "256", "code"): 0,
        ("2", "256", "web"): 160,
    }
    assert "left out by shortest=50" in said


def test_an_order_is_shown_as_steps_of_each_length(tmp_path, capsys, monkeypatch):
    (tmp_path / "text").mkdir()
    for i, words in enumerate([30, 60, 120, 250] * 40):
        (tmp_path / "text" / f"{i}.txt").write_text("w" * words)
    drawn = {}

    def feed_and_keep(*args):
        drawn["axes"] = (figure := feed.feed(*args)).axes[1]
        return figure

    monkeypatch.setattr("experiments.pictures.feed", types.SimpleNamespace(feed=feed_and_keep))
    changed = [f"--config.data.path={tmp_path / 'text'}", "--config.stages[0].order=grow_p100(2)"]
    data.main(["data", SMOKE, f"--workdir={tmp_path / 'out'}", *changed])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    header = lines.index(next(line for line in lines if line[:2] == ["stage", "documents"]))
    of = [line for line in lines[header + 1 : header + 7] if line[:1] == ["1"]]
    dots = next(line for line in drawn["axes"].get_lines() if line.get_label() == "longest documents, from")
    lengths, counts = np.unique(dots.get_ydata(), return_counts=True)
    steps = {int(line[1]): int(line[3]) for line in of}
    assert len(lengths) > 1
    assert {n: count for n, count in steps.items() if count} == dict(zip(lengths, counts, strict=True))
    medians = [int(line[6]) for line in of if line[6] != "-"]
    assert medians == sorted(medians)


def test_packings_that_compare_much_text_are_tried_for_their_own_run_only(monkeypatch):
    table = rows.table([(np.arange(30), None)] * 4, ByteTokenizer())

    def tried(own):
        lines = data.packed("text", Text([], table, own), {16: table, 32: table}, 0)
        return {way.removesuffix(" *") for _, way, *cells in lines if "slow" not in cells[1]}

    assert tried("best_fit") == PACKINGS.keys()
    monkeypatch.setattr(data, "MOST_COMPARED", 200)
    assert tried("best_fit") == PACKINGS.keys() - COMPARED and tried("nextlong") == PACKINGS.keys() - {"in_context"}


def test_a_row_as_text_shows_what_counts():
    tokenizer = ByteTokenizer()
    row = {
        "targets": tokenizer.encode(b"abcdefgh--"),
        "segments": np.array([1, 1, 1, 2, 2, 2, 2, 2, 0, 0]),
        "weights": np.array([1, 1, 1, 0, 0, 1, 1, 0, 0, 0], np.float32),
    }
    assert data.as_text(row, tokenizer) == "abc || [de]fg[h]"


def test_what_cannot_be_fed_is_one_line(tmp_path, text):
    with pytest.raises(UserError, match="data.packing='decompositions' is not known. Did you mean 'decomposition'"):
        data.main(["data", SMOKE, text, "--config.data.packing=decompositions", f"--workdir={tmp_path / 'out'}"])
    with pytest.raises(UserError, match="data.holdout=1.0 leaves no text to train on"):
        data.main(["data", SMOKE, text, "--config.data.holdout=1.0", f"--workdir={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()
