"""Text from a model: `generate` and `stream` continue prompts through a KV cache, on any mesh.

cache.py is the KV cache, reading.py and decode.py the compiled steps, sampling.py the choice of a token, session.py a
row that is continued again and again, rows.py several that come and go; request.py and text.py (free of jax) check what
is asked for and print what comes.
"""

from typing import Any

from pallas_kernels import lazy

NAMES = {
    "Request": "longctx.generation.request:Request",
    "Rows": "longctx.generation.rows:Rows",
    "Session": "longctx.generation.session:Session",
    "generate": "longctx.generation.api:generate",
    "stream": "longctx.generation.api:stream",
}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first asked for, or a module of this package."""
    return lazy.load(__name__, NAMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
