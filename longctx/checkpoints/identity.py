"""A check that a directory's checkpoints are those of this run, from the manifests alone. Free of jax."""

import json
import pathlib

from longctx.checkpoints import manifest
from longctx.errors import UserError

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
    """The `meta` of the newest readable step in a checkpoint directory; None where there is none.

    Reads one small file and does not verify the arrays: Checkpointer.restore_latest does, and may go further back.
    """
    directory = pathlib.Path(directory)
    for step in manifest.steps(directory):
        try:
            return manifest.read(directory / str(step)).meta
        except (manifest.Damaged, OSError):
            continue
    return None


def check_same_run(stored: dict, new: dict, free: frozenset[str] = FREE_FIELDS) -> None:
    """Raises UserError naming the fields in which two configurations (nested dicts) differ.

    `free` holds dotted fields that may differ; each covers everything below it ("log" covers "log.every_steps").
    """
    before, now = _flatten(_plain(stored)), _flatten(_plain(new))
    differing = [
        field
        for field in sorted(before.keys() | now.keys())
        if before.get(field, "absent") != now.get(field, "absent") and not _is_free(field, free)
    ]
    if not differing:
        return
    shown = [
        f"{field}: {before.get(field, 'absent')} (checkpoint) != {now.get(field, 'absent')} (now)"
        for field in differing[:_SHOWN]
    ]
    more = f", and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    raise UserError(
        f"The checkpoints are those of another run: {', '.join(shown)}{more}."
        " Take these settings back to continue it, or choose another --workdir."
    )


def _plain(config: dict):
    """A configuration after a round trip through JSON: tuples become lists, keys become text."""
    return json.loads(json.dumps(config))


def _flatten(tree, prefix: str = "") -> dict[str, str]:
    """{dotted field: value as JSON} of a nested dict; list items are numbered (stages.0.seq_len)."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    leaves = {}
    for key, value in items:
        leaves |= _flatten(value, f"{prefix}{key}.")
    return leaves or {prefix.removesuffix("."): json.dumps(tree)}


def _is_free(field: str, free: frozenset[str]) -> bool:
    return any(field == name or field.startswith(name + ".") for name in free)
