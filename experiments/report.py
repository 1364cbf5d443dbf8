"""Writes workdir/report.html: one file that tells how a run went, with its pictures inside.

    python -m experiments.report --workdir DIR

Reads what experiments/run/written.py says. Safe to call during a run.
"""

import html
import json
import math
import re
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

from experiments.pictures import run as figures
from experiments.pictures.page import PAGE, STYLE
from experiments.run.progress import duration
from experiments.run.written import Run, load
from experiments.settings import former
from experiments.settings.console import Parser, complain
from longctx.errors import UserError
from longctx.evals.api import EVALS
from longctx.evals.drawing import count
from longctx.evals.task import Task
from longctx.json_files import leaves
from longctx.memory.sizes import readable

RECENT = 20  # logged steps that a headline number is averaged over


def write(workdir: str | Path) -> Path:
    """Writes report.html and figures/*.png into the workdir; returns the page's path.

    Raises UserError where what it reads is not what a run writes, or it cannot write.
    """
    run = load(workdir)
    try:
        return _write(run)
    except OSError as error:
        raise UserError(f"The report cannot be written: {error.filename or run.workdir}: {error.strerror}.") from error


def _write(run: Run) -> Path:
    folder = run.workdir / "figures"
    folder.mkdir(exist_ok=True)
    name = str(run.config.get("name") or run.workdir.resolve().name)
    page = PAGE.format(
        style=STYLE,
        title=html.escape(name),
        subtitle=html.escape(_subtitle(run)),
        tiles="\n".join(_tile(*tile) for tile in headline(run)),
        cards="\n".join(_card(folder, section) for section in sections(run)),
        details=_details("Configuration", _flat(run.config)) + _details("Versions and devices", _flat(run.versions)),
    )
    path = run.workdir / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


# ---- the headline ---------------------------------------------------------------------------------------------------


def headline(run: Run) -> list[tuple[str, str, str]]:
    """(value, name, remark) of each headline number; what is not known is left out."""
    if not run.of_a_run:
        return [(f"{run.trained:,}", "tokens of context", "that the model is made for; it was trained elsewhere")]
    if not run.steps:
        return [("0", "steps", "nothing logged yet")]
    last = run.steps[-1]
    loss = figures.middle(figures.column(run.steps[-RECENT:], "loss"))
    tokens, seconds = last.get("tokens") or 0, figures.seconds_running(run.steps).sum()
    compiling = sum(record.get("compile_s") or 0 for record in run.stages)
    recent = f"nats per token, median of the last {min(RECENT, len(run.steps))} logged"
    tiles = [(_number(loss, ".3f"), "training loss", recent)]
    tiles += _bits_per_byte(run, loss)
    speed = tokens / seconds if seconds else math.nan
    tiles += [
        (count(tokens), "tokens seen", f"in {last['step']:,} steps"),
        (_number(speed, ",.0f"), "tokens/s", "whole run, compilation apart"),
        (duration(last.get("time_s") or 0), "time", f"of which compiling {compiling:.0f} s"),
        (f"{run.trained:,}", "longest context", "tokens trained at"),
    ]
    tiles += _of_devices(run)
    if devices := run.versions.get("devices"):
        tiles.append((str(devices), "devices", ""))
    if last.get("skipped"):
        tiles.append((f"{last['skipped']:,}", "skipped steps", "not finite, so not applied"))
    return tiles


def _bits_per_byte(run: Run, loss: float) -> list[tuple[str, str, str]]:
    """The headline number of a run on bytes, of its text alone; none where the log does not tell the text apart."""
    data = run.config.get("data", {})
    if data.get("tokenizer") != "bytes":
        return []
    remark = "the same loss; one token is one byte"
    if any(data.get(name) for name in ("generated", *former.ENTRIES)):  # of runs before data.generated, its shares
        loss = figures.middle(figures.column(run.steps[-RECENT:], f"{figures.SOURCE}text"))
        remark = "of the text, without what is generated"
    bits = loss / math.log(2)
    return [(_number(bits, ".3f"), "bits per byte", remark)] if math.isfinite(bits) else []


def _of_devices(run: Run) -> list[tuple[str, str, str]]:
    """Headline numbers of what devices did and held, as far as it is logged."""
    recent = run.steps[-RECENT:]
    mfu, rate = (figures.middle(figures.column(recent, name)) for name in ("mfu", "flops_per_s"))
    peaks = figures.column(run.steps, "peak_bytes")
    tiles = []
    if math.isfinite(mfu):
        tiles.append((f"{mfu:.1%}", "MFU", "of the published bfloat16 peak, in the last steps"))
    elif math.isfinite(rate):
        unit, size = figures.flops_unit(rate)
        tiles.append((f"{rate / size:.3g}", unit, "that the model needs, in the last steps"))
    if math.isfinite(peak := figures.most(peaks)):
        whose = "of the process" if "cpu" in str(run.versions.get("devices", "cpu")) else "of the fullest device"
        tiles.append((readable(int(peak)), "peak memory", whose))
    return tiles


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "?"


def _subtitle(run: Run) -> str:
    model = run.config.get("model", {})
    parts = [f"{len(run.stages)} stages: " + " → ".join(f"{s['seq_len']:,}" for s in run.stages)] if run.stages else []
    if run.left_out:
        parts.append(f"{run.left_out} lines of metrics.jsonl are no records and are left out")
    if model:
        parts.append(
            "{layers} layers, width {d_model}, {heads} heads of {head_dim}".format_map(
                {"layers": "?", "d_model": "?", "heads": "?", "head_dim": "?", **model}
            )
        )
    return " · ".join(parts)


# ---- the pictures ---------------------------------------------------------------------------------------------------


class Section(NamedTuple):
    """A picture and its words. name: of its PNG. caption: how to read it. finding: what it shows, or why there is none
    where `figure`, of matplotlib, is None."""

    name: str
    title: str
    caption: str
    finding: str
    figure: Any


def sections(run: Run) -> list[Section]:
    """The pictures of a report, in order: training loss, each evaluation of EVALS, and how the training went.

    Evaluations by request are shown where they were measured. Pictures of fields that an
    older run did not log are left out.
    """
    if not run.of_a_run:
        return [_measured(run, name, task) for name, task in EVALS.items() if name in run.evals]
    begun, lengths = bool(run.steps), run.lengths
    finding = "" if begun else "No step is logged yet."
    drawn = lambda draw, *what: draw(*what) if begun else None
    return [
        Section(
            "loss",
            "Training loss",
            "Faint: as logged. Bold: smoothed. The colour is the context length of the stage.",
            finding,
            drawn(figures.loss, run.steps, lengths),
        ),
        *_where_logged(run, "sources"),
        *(_measured(run, name, task) for name, task in EVALS.items() if name in run.evals or not task.by_request),
        *_where_logged(run, "optimiser"),
        Section(
            "speed",
            "Speed and padding by stage",
            "Left: higher is faster. Right: the share of each batch wasted.",
            finding,
            drawn(figures.speed, run.steps, run.stages, lengths),
        ),
        *_where_logged(run, "hardware"),
        Section(
            "time",
            "Where the time went",
            "Each stage compiles its step once (grey), then runs (colour).",
            finding,
            drawn(figures.where_time_went, run.steps, run.stages, lengths),
        ),
    ]


# pictures of fields that not every run has: a field, title, caption and function (steps, lengths) -> figure
LOGGED = {
    "sources": (
        f"{figures.SOURCE}text",
        "Training loss by source",
        "Each line: the mean over the steps since the last logged one.",
        figures.by_source,
    ),
    "optimiser": (
        "grad_norm",
        "Learning rate and gradient norm",
        "The norm is taken before clipping. The colour is the context length of the stage.",
        figures.optimiser,
    ),
    "hardware": (
        "peak_bytes",
        "Compute and memory by stage",
        "Left: FLOPs that the model needs, attention as if each row were one document. Right: the most memory so far.",
        figures.hardware,
    ),
}


def _where_logged(run: Run, name: str) -> list[Section]:
    """The section of that name in LOGGED; none where no step has its field."""
    field, title, caption, draw = LOGGED[name]
    there = any(record.get(field) is not None for record in run.steps)
    return [Section(name, title, caption, "", draw(run.steps, run.lengths))] if there else []


def _measured(run: Run, name: str, task: Task) -> Section:
    """The section of an evaluation: what it found; or how to measure it, where evals.json does not hold it."""
    result = run.evals.get(name)
    if result is None:
        how = f"Not measured yet. To do so: `python -m experiments.evaluate --workdir {shlex.quote(str(run.workdir))}`"
        return Section(name, task.title, task.caption, how, None)
    finding, figure = task.finding(result, run.trained), task.figure(result, run.lengths, run.trained)
    return Section(name, task.title, task.caption, finding, figure)


# ---- HTML -----------------------------------------------------------------------------------------------------------


def _tile(value: str, name: str, remark: str) -> str:
    name, value, remark = map(html.escape, (name, value, remark))
    return f"<div class=tile><dt>{name}</dt><dd>{value}<small>{remark}</small></dd></div>"


def _card(folder: Path, section: Section) -> str:
    """A section as HTML; saves its picture as PNG too."""
    name, title, caption, finding, figure = section
    command = re.sub("`(.*)`", r"<br><code>\1</code>", html.escape(finding))
    picture = f"<p class=empty>{command}</p>"
    if figure is not None:
        figure.savefig(folder / f"{name}.png", dpi=200)
        alt = html.escape(f"{title}. {caption} {finding}", quote=True)
        picture = figures.svg(figure, name).replace("<svg", f'<svg role="img" aria-label="{alt}"', 1)
        picture += f"<figcaption>{html.escape(caption)} <strong>{html.escape(finding)}</strong></figcaption>"
    return f"<figure id={name}><h2>{html.escape(title)}</h2>{picture}</figure>"


def _details(title: str, rows: dict[str, str]) -> str:
    if not rows:
        return ""
    cells = "".join(
        f"<tr><th scope=row>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>" for key, value in rows.items()
    )
    return f"<details><summary>{title}</summary><div class=scroll><table>{cells}</table></div></details>"


def _flat(value) -> dict[str, str]:
    """Nested dicts and lists as 'stages[0].seq_len' -> text."""
    return {path: leaf if isinstance(leaf, str) else json.dumps(leaf) for path, leaf in leaves(value).items()}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="the folder of a training run")
    try:
        print(write(parser.parse_args(argv).workdir))
    except UserError as error:
        return complain(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
