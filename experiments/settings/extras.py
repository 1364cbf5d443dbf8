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
    "tokamax": "bench",
}


def missing(*packages: str) -> str:
    """Why what needs these packages cannot be done here; "" where they are all installed."""
    return not_installed(name for name in packages if importlib.util.find_spec(name) is None)


def not_installed(names) -> str:
    """What to do about these packages or programs; "" for none."""
    if not (names := list(names)):
        return ""
    extras = ",".join(sorted({EXTRAS[name] for name in names if name in EXTRAS}))
    return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} not installed: pip install -e " + (
        f"'.[{extras}]'" if extras else "."
    )


def need(what: str, reason: str) -> None:
    """Raises UserError where there is a reason, of `missing`, why `what` cannot be done here."""
    if reason:
        raise UserError(f"{what} cannot be done here: {reason}")
