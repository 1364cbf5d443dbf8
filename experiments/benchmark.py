"""What the benchmarks share beside their workers: options, the record of the machine, tables, targets, JSON."""
import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess

from experiments.benchmark_worker import ROOT, memory_mb, threads
from experiments.extras import missing
from experiments.options import Parser, complain
from longctx.errors import UserError, unknown_name

DTYPES = ("float32", "bfloat16")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")


def environment() -> dict:
    """What a reader needs to judge the numbers: machine, versions, date, commit. No host names, no paths."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    installed = {package: importlib.metadata.version(package) for package in _PACKAGES if not missing(package)}
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"cpu": model, "threads": threads(), "memory_gb": round(memory_mb() / 1024, 1), "load_at_start": load,
            "system": platform.system(), "python": platform.python_version(), **installed,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "commit": _commit()}


def _commit() -> str | None:
    """The commit of this checkout, "+" behind it where tracked files differ; None outside a checkout."""
    git = lambda *args: subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True).stdout.strip()
    try:
        commit = git("rev-parse", "--short=12", "HEAD") if (ROOT / ".git").exists() else ""
        changed = commit and git("status", "--porcelain", "--untracked-files=no")
    except FileNotFoundError:                                       # no git on this machine
        return None
    return commit + ("+" if changed else "") if commit not in ("", "HEAD") else None


def table(header, rows) -> str:
    """Plain text in aligned columns: numbers (and dashes) to the right, words to the left."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    is_number = [all(row[i][:1].isdigit() or row[i] == "-" for row in rows) for i in range(len(header))]
    line = lambda row: "  ".join(cell.rjust(w) if right else cell.ljust(w)
                                 for cell, w, right in zip(row, widths, is_number, strict=True)).rstrip()
    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])


def number(value: float | None, digits: int = 3) -> str:
    """`value` to so many significant digits; "-" for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{float(f'{value:.{digits}g}'):.{digits}g}"


def target(what: str, value: float | None, at_least: float | None = None, at_most: float | None = None,
           unknown: str = "not measured") -> dict:
    """A number beside what it should be; value None is one that is `unknown`."""
    ok = None if value is None else value >= at_least if at_most is None else value <= at_most
    wanted = f">= {at_least:g}" if at_most is None else f"<= {at_most:g}"
    return {"what": what, "value": value, "target": wanted,
            "result": {None: unknown, True: "ok", False: "missed"}[ok]}


def target_table(targets: list[dict]) -> str:
    return table(("target", "value", "wanted", ""),
                 [(t["what"], number(t["value"]), t["target"], t["result"]) for t in targets])


OPTIONS = {
    "lengths": dict(help="tokens, with commas (default: %(default)s)"),
    "dtype": dict(help="(default: %(default)s)"),
    "rounds": dict(type=int, help="times that every side is asked in turn (default: %(default)s)"),
    "out": dict(metavar="FILE.json", help="write all numbers and the environment here"),
    "worker": dict(help=argparse.SUPPRESS),
}


def parser(description: str, **defaults) -> Parser:
    """Of OPTIONS those that a benchmark has, with their defaults."""
    result = Parser(description)
    for name, default in defaults.items():
        result.add_argument(f"--{name}", default=default, **OPTIONS[name])
    return result


def whole_numbers(option: str, text: str) -> list[int]:
    """"2048,8192" -> [2048, 8192]."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{option}={text} must be whole numbers above 0 with commas between them, such as 2048,8192.")
    return [int(part) for part in parts]


def names(option: str, text: str, known) -> list[str]:
    """"v5e,v6e" -> ["v5e", "v6e"], each of them in `known`."""
    for name in text.split(","):
        if name not in known:
            raise unknown_name(option, name, known)
    return text.split(",")


def dtypes(text: str) -> list[str]:
    return names("--dtype", text, DTYPES)


def write(path: str | None, content: dict) -> None:
    """Writes a result as JSON, if it was asked for."""
    if path:
        pathlib.Path(path).write_text(json.dumps(content, indent=1) + "\n")


def command(main, argv: list[str] | None = None) -> int:
    """Runs main(argv); a UserError is one line on stderr and exit code 2."""
    try:
        return main(argv)
    except UserError as error:
        return complain(error)
