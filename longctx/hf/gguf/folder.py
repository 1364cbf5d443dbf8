"""The Hugging Face folder that a GGUF file stands for: its config.json, its tokenizer, and a link to the file. Free of
jax."""

import os
import pathlib
import shutil
import tempfile

from longctx import caches
from longctx.errors import UserError
from longctx.hf import files, text
from longctx.hf.gguf import dialects, file, tokenizer
from longctx.hf.tensors import Names

GGUF = "model.gguf"  # the link
VERSION = 1  # of what is written; a new one makes the folders anew


def folder(path: pathlib.Path) -> pathlib.Path:
    """A folder with config.json and the tokenizer's files, in the user's cache; `tensors` reads its weights.

    Raises:
      UserError: for a file that is no GGUF file, and an architecture, a setting, a tensor or a tokenizer that is not
        known.
    """
    path = pathlib.Path(os.path.abspath(path.expanduser()))
    if not path.is_file():
        raise UserError(f"There is no file {str(path)!r}.")
    made = caches.folder("gguf") / f"{path.stem}-{files.stamp(path, VERSION):08x}"
    if not (made / "config.json").is_file():
        _make(path, made)
    if (made / GGUF).resolve() != path.resolve():  # the file was moved
        (made / GGUF).unlink()
        (made / GGUF).symlink_to(path)
    return made


def tensors(path: pathlib.Path) -> dict[str, file.Tensor]:
    """{name: Tensor} in a folder that `folder` made."""
    source = (path / GGUF).resolve()
    return dialects.renamed(file.metadata(source), file.tensors(source))


def pieces(path: pathlib.Path) -> Names:
    """Dialect.pieces of the file behind a folder that `folder` made."""
    return dialects.of(file.metadata((path / GGUF).resolve())).pieces


def _make(path: pathlib.Path, made: pathlib.Path) -> None:
    metadata, stored = file.metadata(path), file.tensors(path)
    settings = dialects.settings(metadata, stored) | tokenizer.ids(metadata)
    dialects.renamed(metadata, stored)
    made.parent.mkdir(parents=True, exist_ok=True)
    parts = pathlib.Path(tempfile.mkdtemp(dir=made.parent))
    try:
        (parts / GGUF).symlink_to(path)
        tokenizer.write(metadata, parts)
        text.dump(parts / "config.json", settings)
        if not made.exists():  # another process may have been faster
            parts.rename(made)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
