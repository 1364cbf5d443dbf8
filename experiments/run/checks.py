"""Checks of a run before a device is touched: one UserError for the most basic problem.

The settings come first (settings.checks), then the data, then the workdir.
"""

import dataclasses
import pathlib
from typing import NamedTuple

from experiments.planner import price
from experiments.run import comparison, continuing, held_out, metrics, trackers
from experiments.settings import bounds, places, unread
from experiments.settings import config as configs
from experiments.settings.checks import check_settings
from experiments.settings.tree import Settings
from longctx.config import Config, StageConfig
from longctx.data import curriculum, pipeline, sources, texts, tokenizers
from longctx.data.generated import recall
from longctx.errors import UserError, unknown_name
from longctx.positions import extension

RECALL = "recall"  # the task of a model that experiments.extend trains itself


class Checked(NamedTuple):
    """The data and the curriculum that a check has loaded, so that nobody has to read them twice.

    notes: lines about the stages of a run to continue that are not as they were.
    """

    corpora: texts.Corpora
    tokenizer: tokenizers.Tokenizer
    stages: tuple[curriculum.Stage, ...]
    notes: tuple[str, ...] = ()


def check(config: Config, workdir=None, resume: continuing.Resume = continuing.NEWEST) -> Checked:
    """Raises UserError for the first thing that cannot work; takes 1 to 2 s, most of it the import of jax.

    workdir: where the run would put its checkpoints; any that are there must be those of the same run,
    unless it is never to continue from them (resume).
    """
    stages = check_settings(config)
    unread.check(config)
    if workdir is not None:
        held_out.check(config)
        trackers.check(config)
        places.check_folder("--workdir", workdir)
        price.check_rows(config, stages)
    try:
        corpora, tokenizer = _load_data(config, stages, None if resume.never else workdir)
    except sources.NoSplit as error:
        if workdir is not None and _check_workdir(config, pathlib.Path(workdir), resume) is not None:
            raise UserError(
                f"data.path={config.data.path!r}: not the text that the run in --workdir={str(workdir)!r} "
                f"was trained on, which could be split ({str(error).rstrip('.')}); bring the old files "
                "back, or start in a new --workdir."
            ) from error
        raise
    changed = None
    if workdir is not None:
        changed = _check_workdir(config, pathlib.Path(workdir), resume)
        require_text(config, corpora)
    return Checked(corpora, tokenizer, stages, tuple(changed or ()))


def require_text(config: Config, corpora: texts.Corpora) -> None:
    """Raises UserError where all of the text is held out."""
    if not corpora.train:
        raise UserError(f"data.holdout={config.data.holdout} leaves no text to train on; 0.1 holds out a tenth.")


def check_extend(config: Settings) -> tuple[curriculum.Stage, ...]:
    """The stages of experiments.extend. Raises UserError for settings of the model, of the recall task or of the
    comparison that cannot work."""
    bounds.check_extend(config)
    stages = check_settings(config)
    task, extend, trained = config.recall, config.extend, stages[-1].seq_len
    for i, stage in enumerate(stages):
        recall.check(task, stage.seq_len, f"stages[{i}].seq_len")
    if config.model.vocab_size < recall.vocab_size(task):
        raise UserError(
            f"model.vocab_size={config.model.vocab_size} must be at least {recall.vocab_size(task)}, the "
            "sum of recall.key_tokens, value_tokens and filler_tokens."
        )
    if (extend.tune_length or trained) < trained:
        raise UserError(
            f"extend.tune_length={extend.tune_length} is below the trained length; stages[-1].seq_len="
            f"{trained} or more works."
        )
    if extend.tasks not in ((), (RECALL,)):
        raise UserError(
            f"extend.tasks={extend.tasks} are for a model that is given (init_from); one that is trained here is "
            "asked for 'recall'."
        )
    _check_extend(config)
    return stages


def _check_extend(config: Settings) -> None:
    extend = config.extend
    unread.check_extend(config)
    if min(extend.lengths, default=1) < 1:
        raise UserError(f"extend.lengths={extend.lengths} must all be at least 1.")
    known = {"methods": extension.EXTENSIONS, "tunings": extension.TUNINGS, "tasks": (RECALL, *comparison.TASKS)}
    for field, names in known.items():
        for i, name in enumerate(getattr(extend, field)):
            if name not in names:
                raise unknown_name(f"extend.{field}[{i}]", name, names)
    if not extend.methods + extend.tunings:
        raise UserError("extend.methods=() leaves nothing to read; ('none', 'yarn') would.")


def check_extend_given(config: Settings, trained: int) -> tuple[tokenizers.Tokenizer, tuple]:
    """(the tokenizer of a model that is given, held-out documents if a task reads any), for experiments.extend.

    trained: the tokens that the model is made for. Raises UserError for settings that cannot work.
    """
    bounds.check_extend(config)
    row = StageConfig(seq_len=trained, steps=1, batch_tokens=trained * config.mesh.data * config.mesh.fsdp)
    check_settings(dataclasses.replace(config, stages=(row,)))
    _check_extend(config)
    if config.extend.tunings:
        raise UserError(
            f"extend.tunings={config.extend.tunings} are for the recall task; experiments.train continues "
            "training from init_from."
        )
    if RECALL in config.extend.tasks:
        raise UserError(
            f"extend.tasks: {RECALL!r} is for a model that a config file trains; {', '.join(comparison.TASKS)} work."
        )
    tokenizer = tokenizers.of(config.data)
    tokenizers.check_vocabulary(tokenizer, config.model.vocab_size)
    reads_text = not {*comparison.READS_TEXT}.isdisjoint(config.extend.tasks)
    return tokenizer, texts.load(config.data, tokenizer).held_out if reads_text else ()


def _load_data(config: Config, stages, workdir) -> tuple[texts.Corpora, tokenizers.Tokenizer]:
    data = config.data
    if workdir is not None:
        _, kept = configs.kept(pathlib.Path(workdir), config.init_from, data.tokenizer)
        data = dataclasses.replace(data, tokenizer=kept)
    tokenizer = tokenizers.of(data)
    tokenizers.check_vocabulary(tokenizer, config.model.vocab_size)
    pipeline.check(config.data, stages, tokenizer)
    return texts.load(data, tokenizer), tokenizer


def _check_workdir(config: Config, workdir: pathlib.Path, resume: continuing.Resume) -> list[str] | None:
    """Lines about what changed in a run to continue, which then is this one; None where there is none to continue."""
    stored = continuing.sealed(workdir / configs.CHECKPOINTS, resume)
    if stored is None:
        metrics.check_start(workdir, config.checkpoint.start_over or resume.never)
        if resume.never and config.init_from:  # the run's copy of it goes with its checkpoints
            from longctx.hf import sources as hub

            hub.folder(config.init_from, "init_from")
        return None
    try:
        before = configs.from_config_dict(stored.meta["config"])  # fields that are newer than it have their defaults
        return continuing.check(before, config, stored.step)
    except UserError as error:
        raise UserError(
            f"--workdir={str(workdir)!r}: {error} Or delete it, or set its checkpoints aside by "
            f"--resume={continuing.NEVER}, to start again."
        ) from error
