"""Packages that only some commands need, and the extra of setup.py that brings each. Free of jax."""

import importlib.util

from longctx.errors import UserError

EXTRAS = {
    "libtpu": "aot",
    "jax_cuda13_plugin": "aot",
    "ptxas": "aot",
    "nvdisasm": "aot",
    "torch": "bench",
    "transformers": "bench",
    "starlette": "serve",
    "uvicorn": "serve",
    "tokamax": "bench",
    "lm_eval": "evals",
}


def missing(*packages: str) -> str:
    """A message about those of the packages that are not installed, or "" where all are."""
    return not_installed(name for name in packages if importlib.util.find_spec(name) is None)


def not_installed(names) -> str:
    """A message that these packages or programs are not installed, with the command to install them; "" for none."""
    if not (names := list(names)):
        return ""
    extras = ",".join(sorted({EXTRAS[name] for name in names if name in EXTRAS}))
    return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} not installed: pip install -e " + (
        f"'.[{extras}]'" if extras else "."
    )


def need(what: str, reason: str) -> None:
    """Raises UserError where there is a `reason` why `what` cannot be done, such as a message of `missing`."""
    if reason:
        raise UserError(f"{what} cannot be done here: {reason}")
