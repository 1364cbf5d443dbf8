"""A check that a directory's checkpoints are those of this run, from the manifests alone. Free of jax."""

import json
import pathlib

from longctx.checkpoints import manifest
from longctx.errors import UserError
from longctx.json_files import leaves

# Fields that may change between restarts of one run: they touch neither the meaning of the state nor the order of the
# data. (Another mesh, kernel, strategy, layout or backward changes the last bits of the losses. What data.ignore and
# data.bad let through is compared by the text's checksum.)
FREE_FIELDS = frozenset(
    {
        "name",
        "mesh",
        "attention",
        "memory",
        "model.remat",
        "data.prefetch",
        "data.ignore",
        "data.bad",
        "data.max_bytes",
        "checkpoint",
        "log",
        "eval",
        "recall",
        "extend",
    }
)
_SHOWN = 5


def peek(directory) -> dict | None:
    """The `meta` of the newest readable step in a checkpoint directory; None where there is none. See `newest`."""
    found = newest(directory)
    return None if found is None else found.meta


def newest(directory) -> manifest.Manifest | None:
    """The manifest of the newest readable step in a checkpoint directory; None where there is none.

    Reads one small file and does not verify the arrays: Checkpointer.restore_latest does, and may go further back.
    """
    directory = pathlib.Path(directory)
    for step in manifest.steps(directory):
        try:
            return manifest.read(directory / str(step))
        except (manifest.Damaged, OSError):
            continue
    return None


def check_same_run(stored: dict, new: dict, free: frozenset[str] = FREE_FIELDS) -> None:
    """Raises UserError naming the fields in which two configurations (nested dicts) differ; free: see `differing`."""
    if found := differing(stored, new, free):
        raise UserError(
            f"The checkpoints are those of another run: {listed(found, 'checkpoint')}."
            " Take these settings back to continue it, or choose another --workdir."
        )


def differing(stored: dict, new: dict, free: frozenset[str] = FREE_FIELDS) -> dict[str, tuple[str, str]]:
    """{field: (its stored value, its new one), as JSON, or "absent"} of the fields that differ.

    `free` holds fields that may differ; each covers everything below it ("log" covers "log.every_steps").
    """
    before, now = _leaves(stored), _leaves(new)
    values = {name: (before.get(name, "absent"), now.get(name, "absent")) for name in sorted(before | now)}
    return {name: two for name, two in values.items() if two[0] != two[1] and not _is_free(name, free)}


def listed(found: dict[str, tuple[str, str]], where: str) -> str:
    """The first few of the fields that `differing` found; where: the place of the stored values, in a word."""
    shown = [f"{field}: {old} ({where}) != {new} (now)" for field, (old, new) in list(found.items())[:_SHOWN]]
    return ", ".join(shown) + (f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def _leaves(config: dict) -> dict[str, str]:
    """{field: value as JSON} of a configuration, after a round trip through JSON: tuples become lists."""
    return {name: json.dumps(value) for name, value in leaves(json.loads(json.dumps(config))).items()}


def _is_free(field: str, free: frozenset[str]) -> bool:
    return any(field == name or field.startswith((f"{name}.", f"{name}[")) for name in free)
