"""Files in a workdir beside checkpoints and metrics: settings, versions and copies of tokenizers; and reading back the
parameters of a run."""

import dataclasses
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Sequence

import jax

from experiments.settings import config as configs
from experiments.settings.checkout import command_line, commit
from longctx import trained, training
from longctx.checkpoints import checkpointer, identity
from longctx.config import Config
from longctx.errors import UserError
from longctx.hf import folder, text

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def write_records(config: Config, workdir, mesh, left_out: Sequence[str] = ()) -> None:
    """workdir/config.json and workdir/versions.json, by process 0.

    left_out: lines about documents that the run does not read, which config.json repeats.
    """
    if jax.process_index():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    content = dataclasses.asdict(config) | ({"left_out": list(left_out)} if left_out else {})
    (workdir / "config.json").write_text(json.dumps(content, indent=2) + "\n")
    (workdir / "versions.json").write_text(json.dumps(versions(mesh), indent=2) + "\n")
    if configs.stored(workdir) is None:
        keep_sources(config, workdir)


def keep_sources(config: Config, workdir) -> None:
    """workdir/init_from: config.json of that folder, and its tokenizer; workdir/tokenizer: data.tokenizer, if it is
    another. With them, and the weights in its checkpoints, a run is continued and exported when the folders are gone.
    """
    tokenizer = config.data.tokenizer
    sources = {
        configs.INIT_FROM: config.init_from,
        configs.TOKENIZER: "" if tokenizer in ("bytes", config.init_from) else tokenizer,
    }
    for name, source in sources.items():
        made = workdir / f"{name}.new"
        if source:
            text.copy(source, made, (folder.CONFIG, *text.FILES))
        shutil.rmtree(workdir / name, ignore_errors=True)  # of an earlier start
        if source:
            made.rename(workdir / name)


def load_params(config: Config, workdir, mesh) -> tuple[int, dict]:
    """(step, parameters) of the newest sound checkpoint in a workdir; with optim.ema, what is trained averaged.

    Raises:
      UserError: where there is none, or it is of a stage with another RoPE than the newest, which `config` has.
    """
    whole = training.abstract_state(config, mesh)
    abstract = {name: whole[name] for name in ("params", "ema") if name in whole}
    directory = workdir / configs.CHECKPOINTS
    restored = checkpointer.load_latest(directory, abstract)
    rope = lambda meta: config.stages[meta["stage"]].rope
    if rope(restored.meta) != rope(identity.peek(directory)):
        raise UserError(
            f"{'; '.join(restored.notes)}, and is of another stage, with another RoPE: move the damaged "
            f"folders out of {directory} and try again."
        )
    with jax.set_mesh(mesh):
        return restored.step, trained.measured(restored.state)


def versions(mesh) -> dict:
    """The command line, our version and commit, Python, the packages that matter, and the devices, as a flat dict of
    strings."""
    return {
        "command": command_line(),
        "longctx": f"{importlib.metadata.version('longctx')} {commit() or ''}".strip(),
        "devices": devices(mesh),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def devices(mesh) -> str:
    """For example "4 x cpu in 2 processes"; simulated devices are as many as the mesh has."""
    kind, processes = mesh.devices.flat[0].device_kind, jax.process_count()
    several = f" in {processes} processes" if processes > 1 else ""
    return (f"{mesh.size} x {kind}" if mesh.size > 1 else kind) + several


def describe(config: Config, mesh, state, texts, held_out) -> str:
    """One line: the run, its model, its devices, its data."""
    size = lambda params: f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.1f}M"
    tuned = "" if trained.is_whole(config) else f" ({size(trained.part(config, state['params']))} of them trained)"
    cut = ", ".join(f"{axis} {mesh.shape[axis]}" for axis in mesh.axis_names if mesh.shape[axis] > 1)
    return (
        f"{config.name}: {size(state['params'])} parameters{tuned} on {devices(mesh)}{f' ({cut})' if cut else ''}; "
        f"{len(texts.documents):,} documents with {texts.tokens / 1e6:.1f}M tokens, {len(held_out):,} held out"
    )
