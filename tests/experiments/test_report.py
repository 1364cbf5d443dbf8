"""The report: complete, self-contained, and written whatever is missing."""

import html.parser
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from experiments import report
from experiments.pictures import run as figures
from experiments.run.metrics import FILE, Metrics
from longctx.errors import UserError
from longctx.evals import drawing
from longctx.evals.api import EVALS
from longctx.evals.tasks import passkey


def fill(workdir, steps=(30, 20)):
    """Metrics of a run of two stages."""
    done = tokens = 0
    with Metrics(workdir) as metrics:
        for stage, count in enumerate(steps):
            metrics.stage(
                {
                    "stage": stage,
                    "seq_len": 512 << stage,
                    "batch_size": 8,
                    "compile_s": 2.0,
                    "waste": 0.01,
                    "step": done,
                }
            )
            for _ in range(count):
                done, tokens = done + 1, tokens + 4096
                metrics.step(
                    {
                        "step": done,
                        "stage": stage,
                        "seq_len": 512 << stage,
                        "tokens": tokens,
                        "loss": 5 / done,
                        "tokens_per_s": 4096.0,
                        "padding": 0.01,
                        "skipped": 0,
                        "time_s": float(done),
                    }
                )


def evals():
    by_position = {
        "lengths": [
            {
                "length": 512,
                "documents": 3,
                "windows": 9,
                "mean": 2.0,
                "edges": [0, 8, 32, 128, 512],
                "loss": [4, 3, 2, 1.5],
                "error": [0.1, 0.1, None, 0.1],
                "bits": [2, 1.5, 1, 0.75],
                "bits_error": [0.05, 0.05, None, 0.05],
                "bits_per_byte": 1.0,
            },
            {"length": 4096, "documents": 0, "windows": 0, "reason": "no held-out document is that long"},
        ]
    }
    gain = {
        "lengths": [
            {
                "length": 512,
                "documents": 3,
                "windows": 9,
                "scored": 64,
                "contexts": [128, 256, 512],
                "loss": [2.1, 2.05, 2],
                "gain": [0.1, 0.05, 0],
                "error": [0.01, 0.01, 0],
            }
        ]
    }
    grid = {
        "accuracy": [[1.0, 0.5, None], [0.1, 0.2, None]],
        "exact": [[1.0, 0.25, None], [0.0, 0.0, None]],
        "gain": [[2.5, 1.25, None], [-0.001, -0.05, None]],
    }
    passkey = {"lengths": [512, 2048, 64], "depths": [0.0, 1.0], "samples": 4, "chance": 0.11, "grid": grid}
    return {"by_position": by_position, "context_gain": gain, "passkey": passkey}


def fill_more(workdir):
    """Metrics with what newer runs log: a mixture, held-out losses, FLOPs and memory."""
    with Metrics(workdir) as metrics:
        metrics.stage({"stage": 0, "seq_len": 512, "batch_size": 8, "compile_s": 2.0, "waste": 0.01, "step": 0})
        for step in range(1, 41):
            record = {"step": step, "stage": 0, "seq_len": 512, "tokens": 4096 * step, "loss": 5 / step}
            record |= {"tokens_per_s": 4096.0, "grad_norm": 1 / step, "learning_rate": 1e-3}
            record |= {"flops_per_s": 2e12, "peak_bytes": 10**9 + step}
            record |= {"loss/text": 0.5 * np.log(2)} if step % 2 else {"loss/passkey": 0.1, "mfu": 0.25}
            metrics.step(record | ({"held_out_loss": 1.5} if step % 10 == 0 else {}))


class Page(html.parser.HTMLParser):
    """Collects a page's tags with attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run(tmp_path):
    return described(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The workdir of such a run, and its report, for tests that only look."""
    workdir = described(tmp_path_factory.mktemp("written"))
    return workdir, report.write(workdir)


def described(tmp_path):
    """A folder with all that a run leaves behind."""
    fill(tmp_path)
    (tmp_path / "evals.json").write_text(json.dumps(evals()))
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"name": "a <run>", "data": {"tokenizer": "bytes"}, "stages": [{"seq_len": 512, "rope": None}], "empty": {}}
        )
    )
    (tmp_path / "versions.json").write_text(json.dumps({"jax": "0.10.2", "devices": "1 cpu"}))
    return tmp_path


def test_a_whole_report(written):
    run, path = written
    page = Page(path)
    assert path == run / "report.html" and path.stat().st_size < 1_500_000
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(pictures) == 6 and all(len(attrs["aria-label"]) > 40 and "width" not in attrs for attrs in pictures)
    for part in (
        "a <run>",
        "bits per byte",
        "205k",
        "stages[0].seq_len",
        "stages[0].rope",
        "1 cpu",
        "4,096 tokens not measured: no held-out document is that long",
        "worth 0.100 ± 0.010 nats",
        "45% of the digits",
        "another number: 11%",
        "in 31% of the prompts all are (4 per cell)",
    ):
        assert part in page.text
    for name in ("loss", "by_position", "context_gain", "passkey", "speed", "time"):
        assert (run / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_fetched_and_ids_are_unique(written):
    run, path = written
    page = Page(path)
    links = [attrs[key] for _, attrs in page.tags for key in ("src", "href", "xlink:href") if key in attrs]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"@import|url\((?!#)", (run / "report.html").read_text())
    assert not any(tag in ("script", "link", "iframe") for tag, _ in page.tags)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_neutral_colours_follow_the_page(written):
    text = written[1].read_text()
    svg = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not any(colour in svg for colour in drawing.THEME)
    for variable in drawing.THEME.values():
        assert f"var({variable})" in svg and text.count(f"{variable}:") == 2  # a light and a dark value


def test_the_heatmap_shows_share_gain_and_chance():
    axes, bar = passkey.figure(evals()["passkey"], [512], 512).axes
    cells = [text.get_text() for text in axes.texts]
    assert cells == ["100%\n+2.50", "50%\n+1.25", "too short", "10%\n+0.00", "20%\n-0.05", "too short"]
    assert axes.collections[0].get_clim() == (0, 1)
    assert bar.get_ylabel() == "digits found (line: chance 11%)"
    assert 0.11 in {line.get_ydata()[0] for line in bar.lines}


def test_without_evals_it_says_how_to_make_them(tmp_path):
    fill(tmp_path)
    page = Page(report.write(tmp_path))
    assert page.text.count(f"python -m experiments.evaluate --workdir {tmp_path}") == 3
    assert sum(tag == "svg" for tag, _ in page.tags) == 3


@pytest.mark.parametrize("content", ["", '{"event": "stage", "stage": 0, "seq_len": 512, "step": 0}\n', '{"step": 1'])
def test_a_run_that_has_hardly_begun(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert "No step is logged yet." in Page(report.write(tmp_path)).text


def test_a_torn_line_nulls_and_missing_fields(tmp_path):
    (tmp_path / FILE).write_text(
        '{"step": 1, "stage": 0, "seq_len": 512, "tokens": 512, "loss": null}\n'
        '{"step": 2, "loss": 2.0}\n{"step": 3, "lo'
    )
    page = Page(report.write(tmp_path))
    assert "2.000" in page.text and sum(tag == "svg" for tag, _ in page.tags) == 3


def test_a_model_that_only_gives_nan(run):
    broken = evals()
    broken["by_position"]["lengths"][0].update(loss=[None] * 4, error=[None] * 4)
    broken["context_gain"]["lengths"][0].update(gain=[None] * 3, error=[None] * 3)
    broken["passkey"]["grid"].update(accuracy=[[0.0] * 3] * 2, exact=[[0.0] * 3] * 2, gain=[[None] * 3] * 2)
    (run / "evals.json").write_text(json.dumps(broken))
    text = Page(report.write(run)).text
    assert text.count("not finite") >= 1 and " 0% of the digits" in text


def test_a_passkey_that_fitted_nowhere(run):
    empty = evals()
    empty["passkey"].update(chance=None, grid={name: [[None] * 3] * 2 for name in ("accuracy", "exact", "gain")})
    (run / "evals.json").write_text(json.dumps(empty))
    assert "No length was long enough for the prompt" in Page(report.write(run)).text


def test_what_newer_runs_log_is_shown(tmp_path):
    fill_more(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"name": "mix", "data": {"tokenizer": "bytes", "generated": ["passkey(0.5)"]}})
    )
    page = Page(report.write(tmp_path))
    assert sum(tag == "svg" for tag, _ in page.tags) == 6
    for part in ("Training loss by source", "Learning rate and gradient norm", "Compute and memory by stage"):
        assert part in page.text
    tiles = {name: value for value, name, _ in report.headline(report.load(tmp_path))}
    assert tiles["bits per byte"] == "0.500" and tiles["MFU"] == "25.0%" and tiles["peak memory"] == "1.00 GB"


def test_pictures_hold_what_was_logged(tmp_path):
    fill_more(tmp_path)
    run = report.load(tmp_path)
    (axes, *_) = figures.loss(run.steps, [512]).axes
    (held_out,) = [line for line in axes.lines if line.get_label() == "held-out text"]
    np.testing.assert_array_equal(held_out.get_xydata(), [[10, 1.5], [20, 1.5], [30, 1.5], [40, 1.5]])
    (axes,) = figures.by_source(run.steps, [512]).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["text", "passkey", "held-out text"]
    left, right = figures.hardware(run.steps, [512]).axes
    assert left.get_title() == "MFU (%)" and [bar.get_height() for bar in left.patches] == [25.0]
    assert [bar.get_height() for bar in right.patches] == [1.00000004]
    for record in run.steps:
        record.pop("mfu", None)
    left, _ = figures.hardware(run.steps, [512]).axes
    assert left.get_title() == "TFLOP/s" and [bar.get_height() for bar in left.patches] == [2.0]


def test_bits_per_byte_are_of_text_alone(run):
    """A mixture that an older run did not tell apart has none."""
    names = lambda: [name for _, name, _ in report.headline(report.load(run))]
    assert "bits per byte" in names()
    for mixed in ({"generated": ["passkey(0.5)"]}, {"passkey_share": 0.5}):
        (run / "config.json").write_text(json.dumps({"data": {"tokenizer": "bytes"} | mixed}))
        assert "bits per byte" not in names()


def test_the_last_line_of_a_run_leaves_out_what_was_not_measured():
    found = evals()
    said = lambda: [EVALS[name].headline(result, 512) for name, result in found.items()]
    assert said() == ["held-out loss 2.000 at 512 tokens", "context gain 0.100 nats", "passkey 45% of digits"]
    found["by_position"]["lengths"][0]["mean"] = None
    found["context_gain"]["lengths"][0]["gain"] = [None] * 3
    found["passkey"]["grid"]["accuracy"] = [[None] * 3] * 2
    assert said() == ["", "", ""]
    found["by_position"]["lengths"], found["context_gain"]["lengths"] = [], []
    assert said() == ["", "", ""]


def test_headline_numbers(run):
    tiles = {name: value for value, name, _ in report.headline(report.load(run))}
    last = np.median([5 / step for step in range(31, 51)])
    assert tiles["training loss"] == f"{last:.3f}" and tiles["bits per byte"] == f"{last / np.log(2):.3f}"
    assert tiles["tokens/s"] == "4,096" and tiles["tokens seen"] == "205k" and tiles["longest context"] == "1,024"


def test_long_runs_stay_small(tmp_path):
    fill(tmp_path, (20_000, 20_000))
    assert report.write(tmp_path).stat().st_size < 1_500_000


def test_smoothing_does_not_lag_and_skips_nan():
    line = np.arange(200.0)
    line[50] = np.nan
    np.testing.assert_allclose(figures.smoothed(line, 10)[60:140], np.arange(60, 140), atol=0.5)
    assert np.isnan(figures.smoothed(np.full(3, np.nan), 5)).all()


def test_counts_read_well():
    numbers = {512: "512", 8192: "8,192", 16384: "16.4k", 1_720_320: "1.72M", 4.8e9: "4.8B"}
    assert [drawing.count(number) for number in numbers] == list(numbers.values())


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda w: (w / FILE).unlink() or (w / "evals.json").unlink(), r"--workdir=.* holds no metrics\.jsonl"),
        (lambda w: (w / FILE).unlink() or (w / FILE).mkdir(), r"metrics\.jsonl cannot be read: Is a directory"),
        (lambda w: (w / "evals.json").write_text("{"), r"evals\.json is not JSON"),
        (lambda w: (w / "evals.json").write_text("[1]"), r"evals\.json is not what a run writes"),
        (lambda w: (w / "config.json").write_bytes(b"\xff{}"), r"config\.json is not JSON"),
        (lambda w: (w / "config.json").write_text('{"model": [1]}'), r"config\.json: 'model' is no group of fields"),
        (lambda w: (w / "config.json").write_text('{"a": ' * 100 + "1" + "}" * 100), r"config\.json is not what a run"),
        (lambda w: (w / "versions.json").write_text("[" * 100_000), r"versions\.json is not what a run writes"),
        (
            lambda w: (w / "versions.json").unlink() or (w / "versions.json").mkdir(),
            r"versions\.json cannot be read: Is",
        ),
        (lambda w: (w / "figures").write_text(""), r"cannot be written: .*figures: File exists"),
        (lambda w: (w / "report.html").mkdir(), r"cannot be written: .*report\.html: Is a directory"),
    ],
)
def test_user_errors_are_one_line(run, spoil, message):
    spoil(run)
    with pytest.raises(UserError, match=message) as error:
        report.write(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", ["by_position", "context_gain", "passkey"])
def test_results_of_any_other_type_are_one_line(run, task):
    """Each field of a result, replaced by what it cannot be, or left out."""

    def spoilt(value):
        if isinstance(value, dict):
            for name, item in value.items():
                yield {key: each for key, each in value.items() if key != name}
                yield from ({**value, name: other} for other in spoilt(item))
        elif isinstance(value, list):
            yield from ([other, *value[1:]] for other in spoilt(value[0]))
            yield value[1:]
        yield from ("text", 10**400)

    refused = 0
    for other in spoilt(evals()[task]):
        (run / "evals.json").write_text(json.dumps({task: other}))
        try:
            found = report.load(run)
        except UserError as error:
            refused += 1
            assert task in str(error) and "\n" not in str(error)
        else:
            assert report.sections(found._replace(steps=[]))  # what is not refused is drawn
    assert refused > 20


def test_lines_that_are_no_records_are_said(run):
    with (run / FILE).open("ab") as file:
        file.write(b'{"step": "many"}\n{"step": 51, "seq_len": "long"}\n')
    assert "2 lines of metrics.jsonl are no records and are left out" in Page(report.write(run)).text


def test_command(run, tmp_path):
    def command(workdir):
        return subprocess.run(
            [sys.executable, "-m", "experiments.report", "--workdir", str(workdir)],
            text=True,
            capture_output=True,
            timeout=120,
        )

    assert command(run).stdout.strip() == str(run / "report.html")
    bad = command(tmp_path / "none")
    assert bad.returncode == 2 and len(bad.stderr.strip().splitlines()) == 1 and "Traceback" not in bad.stderr
