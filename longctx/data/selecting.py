"""The documents of a source that are kept by their scores: `scores` and `keep` of data and of data.mix. Free of jax."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from longctx.config import DataConfig
from longctx.errors import UserError


def check(field: str, scores: str, keep: float) -> None:
    """Raises UserError for a share that cannot be, or that nothing reads. field: what the settings are of."""
    if not 0 < keep <= 1:
        raise UserError(f"{field}.keep={keep} must be above 0 and at most 1; 0.5 keeps the better half of the tokens.")
    if keep < 1 and not scores:
        raise UserError(f"{field}.keep={keep} has no effect: {field}.scores is empty; experiments.select writes them.")
    if scores and keep == 1:
        raise UserError(
            f"{field}.scores={scores!r} has no effect: {field}.keep=1 keeps all documents; 0.5 keeps the better half "
            "of the tokens."
        )


def read(path: str) -> dict[str, float]:
    """The score of each document, by its name, of a file that experiments.select wrote; NaN for one without."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.scores={path!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            found[record["name"]] = math.nan if record["score"] is None else float(record["score"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"data.scores: line {number} of {path!r} is not an object with a name and a score, as "
                "experiments.select writes them."
            ) from error
    return found


def kept(names: Sequence[str], tokens: np.ndarray, config: DataConfig) -> np.ndarray:
    """bool[documents]: those with the best scores, which hold config.keep of all tokens, or just more.

    A document without a score is worse than all others. Raises UserError where no document has one.
    """
    scores = read(config.scores)
    found = np.array([scores.get(name, math.nan) for name in names])
    if np.isnan(found).all():
        raise UserError(
            f"data.scores={config.scores!r} has no score of a document of {config.path!r}: its first name is "
            f"{next(iter(scores), 'none')!r}, that of the first document {names[0]!r}."
        )
    order = np.argsort(-np.nan_to_num(found, nan=-np.inf), kind="stable")
    before = np.cumsum(tokens[order]) - tokens[order]
    keep = np.zeros(len(found), bool)
    keep[order[before < config.keep * tokens.sum()]] = True
    return keep
