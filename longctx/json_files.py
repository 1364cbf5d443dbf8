"""Files of JSON that other programs may have written, and the values in nested groups. Free of jax."""

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


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """The values of nested groups and lists by their paths, such as "stages[0].seq_len"; a list of values is one.

    A group is what has items(): a dict, a ConfigDict.
    """
    if hasattr(value, "items"):
        items = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(item, list) or hasattr(item, "items") for item in value):
        items = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    else:
        return {path: value} if path else {}
    return {name: leaf for at, item in items for name, leaf in leaves(item, at).items()}
