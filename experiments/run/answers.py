"""What experiments.evaluate keeps of questions: files of the workdir with a line for every text that was asked."""

import dataclasses
import pathlib
import zlib

from experiments.run.journal import Journal
from experiments.settings import config as configs
from longctx.checkpoints import identity, manifest
from longctx.config import Config, RopeConfig
from longctx.evals.samples import Samples

FILES = {"questions": "samples.jsonl", "sets": "samples_sets.jsonl"}  # by the name of the evaluation
SETTINGS = {"questions": ("ask", "shots", "essays"), "sets": ("ask", "data", "too_long")}  # of config.eval, that matter
VERSION = 1  # of the generated texts and of how they are scored; another one begins anew
FREE = frozenset({"settings.model.remat", "settings.model.lora"})  # the weights say what adapters change


def weights_of_run(workdir: pathlib.Path) -> dict:
    """What tells the newest checkpoint of a run from others; {} where there is none."""
    checkpoints = workdir / configs.CHECKPOINTS
    if identity.peek(checkpoints) is None:
        return {}
    step = manifest.steps(checkpoints)[0]
    return {"step": step, "files": zlib.crc32((checkpoints / str(step) / manifest.NAME).read_bytes())}


def kept(
    name: str, config: Config, rope: RopeConfig, workdir: pathlib.Path, weights: dict, active: bool
) -> tuple[Samples, list]:
    """(the samples of an evaluation in the workdir, to which new ones are appended; lines that say what became of those
    there).

    weights: what tells the model's weights from others; without, nothing there is taken for this model's. active:
    whether this process writes.

    Raises UserError where the file is not what this module writes.
    """
    settings = {
        "model": dataclasses.asdict(dataclasses.replace(config.model, rope=rope)),
        "tokenizer": config.data.tokenizer,
        "seed": config.seed,
        **{field: getattr(config.eval, field) for field in SETTINGS[name]},
    }
    said = {"version": VERSION, "settings": settings, "weights": weights}
    journal = Journal(workdir / FILES[name], said, (*Samples.KEY, "tokens", "queries"), "experiments.evaluate", active)
    other = journal.differing(FREE) if weights else {"weights": ("unknown", "unknown")}
    note = f"{len(journal.lines):,} texts of {journal.path} were asked before, and count"
    if other:
        note = f"{journal.path} is begun anew: {identity.listed(other, 'there')}"
    notes = [note] if journal.lines else []
    if other:
        journal.begin_anew()
    return Samples(journal.lines, journal.add), notes
