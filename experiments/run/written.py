"""What a workdir holds of a run, as the report reads it: metrics.jsonl, evals.json, config.json and versions.json.

The last three may be absent. Anybody may have changed them: each field that the report uses is of its type here, or
the file is named in an error.
"""

import json
from pathlib import Path
from typing import NamedTuple

from experiments.run import metrics
from longctx.errors import UserError

DEPTH = 30  # of a file that a run writes, far less

# Forms: a type, several of them, [form] for a list of those, {name: form} for a dict that has at least these names.
_NUMBER = (int, float, type(None))
_GRIDS = ("accuracy", "exact", "gain")
_FORMS = {
    "by_position": {"lengths": [{"length": int}]},
    "context_gain": {"lengths": [{"length": int}]},
    "passkey": {
        "lengths": [int],
        "depths": [(int, float)],
        "samples": int,
        "chance": _NUMBER,
        "grid": {name: [[_NUMBER]] for name in _GRIDS},
    },
}
_NOT_MEASURED = {"reason": str}
_BY_POSITION = {"documents": int, "edges": [int], "loss": [_NUMBER], "error": [_NUMBER]}
_GAIN = {"documents": int, "contexts": [int], "gain": [_NUMBER], "error": [_NUMBER]}


class Run(NamedTuple):
    """What a workdir holds. left_out: lines of metrics.jsonl that are no records."""

    workdir: Path
    steps: list[dict]
    stages: list[dict]
    evals: dict
    config: dict
    versions: dict
    left_out: int

    @property
    def trained(self) -> int:
        """The longest context trained at, in tokens; 0 if nothing was trained."""
        return max((record.get("seq_len") or 0 for record in (*self.stages, *self.steps)), default=0)

    @property
    def lengths(self) -> list[int]:
        """Every context length that any picture shows, increasing: its place in this list is its colour."""
        shown = {record.get("seq_len", 0) for record in (*self.stages, *self.steps)}
        for name in ("by_position", "context_gain"):
            shown |= {record["length"] for record in self.evals.get(name, {}).get("lengths", ())}
        return sorted(shown)


def load(workdir: str | Path) -> Run:
    """Reads a workdir. Raises UserError if it has no metrics, or a file that is not what a run writes."""
    workdir = Path(workdir)
    if not (workdir / metrics.FILE).exists():
        raise UserError(f"--workdir={workdir} holds no {metrics.FILE}; give the folder that a training run wrote.")
    records, left_out = metrics.read_counted(workdir)
    evals, config, versions = (_json(workdir / f"{name}.json") for name in ("evals", "config", "versions"))
    for name in ("data", "model"):
        if not isinstance(config.get(name, {}), dict):
            raise UserError(f"{workdir / 'config.json'}: {name!r} is no group of fields; remove it or write it again.")
    for name, is_result in RESULTS.items():
        if name in evals and not (_fits(evals[name], _FORMS[name]) and is_result(evals[name])):
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
    )


def _json(path: Path) -> dict:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); remove it or write it again.") from None
    except RecursionError:
        found = None
    if not isinstance(found, dict) or not _is_shallow(found, DEPTH):
        raise UserError(f"{path} is not what a run writes; remove it or write it again.")
    return found


def _fits(value, form) -> bool:
    if isinstance(form, dict):
        return isinstance(value, dict) and all(name in value and _fits(value[name], f) for name, f in form.items())
    if isinstance(form, list):
        return isinstance(value, list) and all(_fits(item, form[0]) for item in value)
    return isinstance(value, form) and not (isinstance(value, bool) or isinstance(value, int) and abs(value) >= 2**63)


def _is_shallow(value, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in items)


def _is_by_position(result: dict) -> bool:
    return all(
        _fits(one, _BY_POSITION) and len(one["edges"]) - 1 == len(one["loss"]) == len(one["error"])
        if one.get("loss")
        else _fits(one, _NOT_MEASURED)
        for one in result["lengths"]
    )


def _is_gain(result: dict) -> bool:
    return all(
        _fits(one, _GAIN) and len(one["contexts"]) == len(one["gain"]) == len(one["error"])
        if one.get("gain")
        else _fits(one, _NOT_MEASURED)
        for one in result["lengths"]
    )


def _is_passkey(result: dict) -> bool:
    rows, columns, grid = len(result["depths"]), len(result["lengths"]), result["grid"]
    whole = all(len(grid[name]) == rows and all(len(row) == columns for row in grid[name]) for name in _GRIDS)
    return whole and (result["chance"] is not None or all(x is None for row in grid["accuracy"] for x in row))


RESULTS = {"by_position": _is_by_position, "context_gain": _is_gain, "passkey": _is_passkey}
