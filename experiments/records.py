"""What a run leaves: config.json and versions.json, the line that introduces it, and its parameters read again."""
import dataclasses
import importlib.metadata
import json
import platform

import jax

from experiments import config as configs
from longctx import checkpoint, train_step
from longctx.config import Config

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def write_records(config: Config, workdir, mesh) -> None:
    """workdir/config.json and workdir/versions.json, by process 0."""
    if jax.process_index():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    (workdir / "versions.json").write_text(json.dumps(versions(mesh), indent=2) + "\n")


def load_params(config: Config, workdir, mesh) -> tuple[int, dict]:
    """(step, parameters) of the newest sound checkpoint in a workdir. Raises UserError where there is none."""
    abstract = {"params": train_step.abstract_state(config, mesh)["params"]}
    restored = checkpoint.load_latest(workdir / configs.CHECKPOINTS, abstract)
    return restored.step, restored.state["params"]


def versions(mesh) -> dict:
    """Python, the packages that matter, and the devices, as a flat dict of strings."""
    return {"devices": devices(mesh), "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES}}


def devices(mesh) -> str:
    """For example "4 x cpu in 2 processes"; simulated devices are as many as the mesh has."""
    kind, processes = mesh.devices.flat[0].device_kind, jax.process_count()
    several = f" in {processes} processes" if processes > 1 else ""
    return (f"{mesh.size} x {kind}" if mesh.size > 1 else kind) + several


def describe(config: Config, mesh, state, text, corpus) -> str:
    """One line: the run, its model, its devices, its data."""
    count = sum(x.size for x in jax.tree.leaves(state["params"]))
    cut = ", ".join(f"{axis} {mesh.shape[axis]}" for axis in mesh.axis_names if mesh.shape[axis] > 1)
    return (f"{config.name}: {count / 1e6:.1f}M parameters on {devices(mesh)}{f' ({cut})' if cut else ''}; "
            f"{len(corpus.train):,} documents with {text.inputs.sum() / 1e6:.1f}M tokens, "
            f"{len(corpus.held_out):,} held out")
