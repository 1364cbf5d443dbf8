"""Files of JSON that other programs may have written. Free of jax."""

import json
import pathlib

from longctx.errors import UserError


def read_object(path: pathlib.Path) -> dict:
    """The object in a JSON file. Raises UserError where it cannot be read or holds anything but an object."""
    try:
        content = json.loads(path.read_text())
    except RecursionError as error:
        raise UserError(f"{path} cannot be read: it is nested too deeply.") from error
    except (OSError, ValueError) as error:  # not UTF-8, not JSON, a number of thousands of digits
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object.")
    return content
