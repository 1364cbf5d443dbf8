"""Records of benchmark results: the machine, numbers beside their targets, JSON."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys

from experiments.bench.harness.sides import memory_mb, threads
from experiments.settings.checkout import commit
from experiments.settings.console import number, table
from experiments.settings.extras import missing

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")


def environment() -> dict:
    """The machine, versions, date and commit, by which a reader can judge the numbers. No host names, no paths."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    installed = {package: importlib.metadata.version(package) for package in _PACKAGES if not missing(package)}
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "cpu": model,
        "threads": threads(),
        "memory_gb": round(memory_mb() / 1024, 1),
        "load_at_start": load,
        "system": platform.system(),
        "python": platform.python_version(),
        **installed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
    }


def target(
    what: str,
    value: float | None,
    at_least: float | None = None,
    at_most: float | None = None,
    unknown: str = "not measured",
) -> dict:
    """A number beside the bound that it should keep; a value of None is reported as `unknown`."""
    ok = None if value is None else value >= at_least if at_most is None else value <= at_most
    wanted = f">= {at_least:g}" if at_most is None else f"<= {at_most:g}"
    return {"what": what, "value": value, "target": wanted, "result": {None: unknown, True: "ok", False: "missed"}[ok]}


def target_table(targets: list[dict]) -> str:
    """The table of targets, see `target`."""
    return table(
        ("target", "value", "wanted", ""), [(t["what"], number(t["value"]), t["target"], t["result"]) for t in targets]
    )


def command() -> str:
    """The command line of this process as a reader types it, without the files that it writes."""
    spec, kept = sys.modules["__main__"].__spec__, []
    for argument in sys.argv[1:]:
        is_file = kept[-1:] in (["--out"], ["--picture"])
        kept = kept[:-1] if is_file else kept if argument.startswith(("--out=", "--picture=")) else [*kept, argument]
    return " ".join(["python", "-m", spec.name if spec else "?", *kept])


def write(path: str | None, content: dict) -> None:
    """Writes a benchmark's result and its command line as JSON, if `path` names a file."""
    if path:
        pathlib.Path(path).write_text(json.dumps({"command": command(), **content}, indent=1) + "\n")
