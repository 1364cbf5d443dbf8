"""Models as people have them: a folder, a GGUF file, or the id of a model in the local hub cache. Free of jax."""

import dataclasses
import os
import pathlib

from longctx.errors import UserError
from longctx.hf import files
from longctx.hf.architectures import Architecture
from longctx.hf.gguf import folder as gguf

HOW = "it must be the folder of a Hugging Face model, a .gguf file, or the id of a model that is in the hub's cache"


def folder(source, field: str = "path") -> pathlib.Path:
    """The Hugging Face folder that `source` stands for: a folder is its own. `field` named it.

    Raises:
      UserError: for a file of another kind, and for an id that is not in the cache; the message says what to do.
    """
    path = pathlib.Path(os.path.expanduser(source))
    if path.is_dir():
        return path
    if path.is_file():
        return _of_file(path, f"{field}={str(source)!r}")
    name = str(source)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _in_cache(name, field)
    raise UserError(f"{field}={name!r} does not exist; {HOW}.")


def tensors(folder: pathlib.Path) -> dict[str, files.Stored]:
    """{name: Stored} of every tensor in a folder: safetensors, or those of the GGUF file that it was made for."""
    if not (folder / gguf.GGUF).is_file():
        return files.tensors(folder)
    return {**gguf.tensors(folder)}


def checksum(folder: pathlib.Path) -> str:
    """A checksum that tells the weights in a folder from others."""
    paths = sorted({stored.path for stored in tensors(folder).values()})
    return "-".join(f"{files.stamp(path):08x}" for path in paths)


def placed(folder: pathlib.Path, architecture: Architecture) -> Architecture:
    """The architecture with the places that its weights have in the `tensors` of a folder."""
    own = gguf.pieces(folder) if (folder / gguf.GGUF).is_file() else {}
    if not own:
        return architecture
    assert isinstance(architecture.block, dict), architecture.class_name
    return dataclasses.replace(architecture, block=architecture.block | own)


def _of_file(path: pathlib.Path, said: str) -> pathlib.Path:
    if path.suffix == ".gguf":
        return gguf.folder(path)
    if path.suffix == ".safetensors":
        raise UserError(f"{said} has no settings in it; give its folder, which must hold a config.json.")
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise UserError(
            f"{said} is pickled, which runs what it holds; convert it with save_pretrained of transformers."
        )
    raise UserError(f"{said} is a file of another kind; {HOW}.")


def _in_cache(name: str, field: str) -> pathlib.Path:
    """The newest snapshot of a model in the hub's cache, as huggingface_hub lays it out."""
    home = os.environ.get("HF_HOME") or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    hub = pathlib.Path(os.environ.get("HF_HUB_CACHE") or pathlib.Path(home) / "hub").expanduser()
    repository = hub / f"models--{name.replace('/', '--')}"
    main = repository / "refs" / "main"
    snapshots = [repository / "snapshots" / main.read_text().strip()] if main.is_file() else []
    snapshots += sorted(repository.glob("snapshots/*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for snapshot in snapshots:
        if (snapshot / "config.json").is_file():
            return snapshot
    raise UserError(
        f"{field}={name!r} is neither a folder of a Hugging Face model nor the id of one in the hub's cache "
        f"({hub}); `hf download {name}` brings it there."
    )
