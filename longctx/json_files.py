"""Files of JSON that other programs may have written. Free of jax."""

import json
import pathlib
from typing import Any

from longctx.errors import UserError


def read(path: pathlib.Path) -> Any:
    """The value in a JSON file. Raises OSError, and ValueError for anything that is not JSON in UTF-8."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_object(path: pathlib.Path) -> dict:
    """The object in a JSON file. Raises UserError where it cannot be read or holds anything but an object."""
    try:
        content = read(path)
    except (OSError, ValueError) as error:  # not UTF-8, not JSON, a number of thousands of digits
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object.")
    return content
