"""Writes workdir/report.html: one file that tells how a run went, with its pictures inside.

    python -m experiments.report --workdir DIR

Reads what report_run.py says. Safe to call during a run.
"""

import html
import json
import math
import re
import shlex
import sys
from pathlib import Path

import numpy as np

from experiments.pictures import run as figures
from experiments.pictures.page import PAGE, STYLE
from experiments.run.progress import duration
from experiments.run.written import Run, load
from experiments.settings.console import Parser, complain
from longctx.errors import UserError

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
        cards="\n".join(_card(run, folder, *section) for section in _sections(run)),
        details=_details("Configuration", _flat(run.config)) + _details("Versions and devices", _flat(run.versions)),
    )
    path = run.workdir / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


# ---- the headline ---------------------------------------------------------------------------------------------------


def headline(run: Run) -> list[tuple[str, str, str]]:
    """(value, name, remark) of each headline number; what is not known is left out."""
    if not run.steps:
        return [("0", "steps", "nothing logged yet")]
    last = run.steps[-1]
    loss = figures.middle(figures.column(run.steps[-RECENT:], "loss"))
    tokens, seconds = last.get("tokens") or 0, figures.seconds_running(run.steps).sum()
    compiling = sum(record.get("compile_s") or 0 for record in run.stages)
    recent = f"nats per token, median of the last {min(RECENT, len(run.steps))} logged"
    tiles = [(_number(loss, ".3f"), "training loss", recent)]
    if run.config.get("data", {}).get("tokenizer") == "bytes":
        tiles.append((_number(loss / math.log(2), ".3f"), "bits per byte", "the same loss; one token is one byte"))
    speed = tokens / seconds if seconds else math.nan
    tiles += [
        (figures.count(tokens), "tokens seen", f"in {last['step']:,} steps"),
        (_number(speed, ",.0f"), "tokens/s", "whole run, compilation apart"),
        (duration(last.get("time_s") or 0), "time", f"of which compiling {compiling:.0f} s"),
        (f"{run.trained:,}", "longest context", "tokens trained at"),
    ]
    if devices := run.versions.get("devices"):
        tiles.append((str(devices), "devices", ""))
    if last.get("skipped"):
        tiles.append((f"{last['skipped']:,}", "skipped steps", "not finite, so not applied"))
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


def _sections(run: Run):
    """(file name, title, caption, finding, figure or None) of each picture; without a figure the finding says why."""
    lengths, none = run.lengths, "No step is logged yet."
    evals, steps = run.evals, bool(run.steps)
    how = f"Not measured yet. To do so: `python -m experiments.evaluate --workdir {shlex.quote(str(run.workdir))}`"
    by_position, gain, passkey = (evals.get(name) for name in ("by_position", "context_gain", "passkey"))
    return [
        (
            "loss",
            "Training loss",
            "Faint: as logged. Bold: smoothed. The colour is the context length of the stage.",
            "" if steps else none,
            figures.loss(run.steps, lengths) if steps else None,
        ),
        (
            "by_position",
            "Loss by position in the context",
            "Held-out text. Falling to the right = the model uses what it has read. Bands: one standard error.",
            *_measured(
                run,
                by_position,
                how,
                "loss",
                _by_position_finding,
                lambda: figures.by_position(by_position, lengths, run.trained),
            ),
        ),
        (
            "context_gain",
            "What context is worth",
            "The same tokens, predicted from less text. Height = what missing context costs; zero = it did not help.",
            *_measured(run, gain, how, "gain", _gain_finding, lambda: figures.context_gain(gain, lengths, run.trained)),
        ),
        (
            "passkey",
            "Passkey retrieval",
            "A number hidden in filler. Each cell: the share of its digits found, and the nats per digit saved.",
            how if passkey is None else _passkey_finding(passkey),
            None if passkey is None else figures.passkey(passkey, run.trained),
        ),
        (
            "speed",
            "Speed and padding by stage",
            "Left: higher is faster. Right: the share of each batch wasted.",
            "" if steps else none,
            figures.speed(run.steps, run.stages, lengths) if steps else None,
        ),
        (
            "time",
            "Where the time went",
            "Each stage compiles its step once (grey), then runs (colour).",
            "" if steps else none,
            figures.where_time_went(run.steps, run.stages, lengths) if steps else None,
        ),
    ]


def _measured(run: Run, result: dict | None, how: str, key: str, finding, draw):
    """(finding, figure) of an eval by length: how to make it, or what it found at the longest length trained at."""
    if result is None:
        return how, None
    measured = [record for record in result["lengths"] if record.get(key)]
    missing = [
        f"{record['length']:,} tokens not measured: {record['reason']}."
        for record in result["lengths"]
        if not record.get(key)
    ]
    trained = [record for record in measured if record["length"] <= run.trained] or measured
    found = [finding(trained[-1])] if trained else []
    return " ".join(found + missing), draw() if measured else None


def _by_position_finding(record: dict) -> str:
    edges, loss = np.array(record["edges"]), figures.numbers(record["loss"])
    early = int(np.searchsorted(edges, 64)) if edges[-1] > 128 else 0
    early = min(early, len(loss) - 1)
    return (
        f"At {record['length']:,} tokens: {loss[early]:.3f} nats around position {edges[early]:,}, "
        f"{loss[-1]:.3f} from {edges[-2]:,} on ({record['documents']} documents)."
    )


def _gain_finding(record: dict) -> str:
    gain, error = record["gain"][0], record["error"][0]
    if gain is None:
        return "The loss is not finite."
    spread = "" if error is None else f" ± {error:.3f}"
    return (
        f"Reading {record['length']:,} tokens instead of {record['contexts'][0]:,} is worth {gain:.3f}{spread} "
        f"nats per token ({record['documents']} documents)."
    )


def _passkey_finding(result: dict) -> str:
    accuracy, exact = (
        figures.numbers(value for row in result["grid"][name] for value in row) for name in ("accuracy", "exact")
    )
    if not np.isfinite(accuracy).any():
        return "No length was long enough for the prompt, or the tokenizer has no digits."
    return (
        f"{np.nanmean(accuracy):.0%} of the digits are the model's top choice (chance, measured by hiding another "
        f"number: {result['chance']:.0%}); in {np.nanmean(exact):.0%} of the prompts all are "
        f"({result['samples']} per cell)."
    )


# ---- HTML -----------------------------------------------------------------------------------------------------------


def _tile(value: str, name: str, remark: str) -> str:
    name, value, remark = map(html.escape, (name, value, remark))
    return f"<div class=tile><dt>{name}</dt><dd>{value}<small>{remark}</small></dd></div>"


def _card(run: Run, folder: Path, name: str, title: str, caption: str, finding: str, figure) -> str:
    """A picture with its sentence; saves the picture as PNG too."""
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


def _flat(value, prefix: str = "") -> dict[str, str]:
    """Nested dicts and lists as 'stages[0].seq_len' -> text."""
    if isinstance(value, dict) and (value or prefix):
        items = [(f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = [(f"{prefix}[{i}]", item) for i, item in enumerate(value)]
    elif not prefix:
        return {}
    else:
        return {prefix: value if isinstance(value, str) else json.dumps(value)}
    return {key: text for name, item in items for key, text in _flat(item, name).items()}


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
