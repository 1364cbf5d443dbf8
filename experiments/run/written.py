"""The files of a workdir as the report reads them: metrics.jsonl, evals.json, config.json and versions.json.

The last three may be absent. Anybody may have changed them: each field that the report uses is of its type here, or
the file is named in an error.
"""

import json
from pathlib import Path
from typing import NamedTuple

from experiments.run import metrics
from longctx.errors import UserError
from longctx.evals.api import EVALS

DEPTH = 30  # of a file that a run writes, far less


class Run(NamedTuple):
    """The content of a workdir. left_out: lines of metrics.jsonl that are no records. of_a_run: whether there is one: a
    model that was trained elsewhere has evaluations only."""

    workdir: Path
    steps: list[dict]
    stages: list[dict]
    evals: dict
    config: dict
    versions: dict
    left_out: int
    of_a_run: bool = True

    @property
    def trained(self) -> int:
        """The longest context trained at, in tokens; 0 if nothing was trained. Of a model that was trained elsewhere,
        what config.json says."""
        logged = (*self.stages, *self.steps)
        stages = logged if self.of_a_run else self.config.get("stages", ())
        return max((record.get("seq_len") or 0 for record in stages), default=0)

    @property
    def lengths(self) -> list[int]:
        """Every context length that any picture shows, increasing: its place in this list is its colour."""
        shown = {record.get("seq_len", 0) for record in (*self.stages, *self.steps)}
        for name, task in EVALS.items():
            shown |= set(task.lengths(self.evals[name]) if name in self.evals else ())
        return sorted(shown)


def load(workdir: str | Path) -> Run:
    """Reads a workdir. Raises UserError if it has no metrics, or a file that is not what a run writes."""
    workdir = Path(workdir)
    of_a_run = (workdir / metrics.FILE).exists()
    if not of_a_run and not (workdir / "evals.json").exists():
        raise UserError(f"--workdir={workdir} holds no {metrics.FILE}; give the folder that a training run wrote.")
    records, left_out = metrics.read_counted(workdir) if of_a_run else ([], 0)
    evals, config, versions = (_json(workdir / f"{name}.json") for name in ("evals", "config", "versions"))
    for name in ("data", "model"):
        if not isinstance(config.get(name, {}), dict):
            raise UserError(f"{workdir / 'config.json'}: {name!r} is no group of fields; remove it or write it again.")
    for name, task in EVALS.items():
        if name in evals and not (isinstance(evals[name], dict) and task.is_result(evals[name])):
            raise UserError(
                f"{workdir / 'evals.json'}: {name!r} is not as experiments.evaluate writes it; run that "
                "again, or remove the file."
            )
    return Run(
        workdir,
        [record for record in records if "event" not in record],
        [record for record in records if record.get("event") == "stage"],
        evals,
        config,
        versions,
        left_out,
        of_a_run,
    )


def _json(path: Path) -> dict:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); remove it or write it again.") from None
    except RecursionError:
        content = None
    if not isinstance(content, dict) or not _is_shallow(content, DEPTH):
        raise UserError(f"{path} is not what a run writes; remove it or write it again.")
    return content


def _is_shallow(value, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in items)
