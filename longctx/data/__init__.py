"""From text files to batches of packed documents.

sources.py reads and splits the documents (`load`), tokenizers.py makes them tokens, packing/ and rows.py make rows of
them, pipeline.py the batches of a run (`BatchStream`), curriculum.py its stages. All but pipeline.py are
free of jax.
"""

from typing import Any

from pallas_kernels import lazy

NAMES = {
    "BatchStream": "longctx.data.pipeline:BatchStream",
    "Corpus": "longctx.data.sources:Corpus",
    "Document": "longctx.data.document:Document",
    "PackedRows": "longctx.data.rows:PackedRows",
    "Stage": "longctx.data.curriculum:Stage",
    "load": "longctx.data.sources:load",
}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first asked for, or a module of this package."""
    return lazy.load(__name__, NAMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
