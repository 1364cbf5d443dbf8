"""Checks of a run before a device is touched: one UserError for the most basic problem.

The settings come first (settings.checks), then the data, then the workdir.
"""

import dataclasses
import pathlib
from typing import NamedTuple

from experiments.planner import price
from experiments.run import held_out, metrics, trackers
from experiments.settings import bounds, places, unread
from experiments.settings import config as configs
from experiments.settings.checks import check_settings
from experiments.settings.tree import Settings
from longctx.checkpoints import identity
from longctx.config import Config, StageConfig
from longctx.data import curriculum, pipeline, sources, tokenizers
from longctx.data.generated import recall
from longctx.errors import UserError, unknown_name
from longctx.hf.rope import stretched
from longctx.positions import extension


class Checked(NamedTuple):
    """The data and the curriculum that a check has loaded, so that nobody has to read them twice."""

    corpus: sources.Corpus
    tokenizer: tokenizers.Tokenizer
    stages: tuple[curriculum.Stage, ...]


def check(config: Config, workdir=None) -> Checked:
    """Raises UserError for the first thing that cannot work; takes 1 to 2 s, most of it the import of jax.

    workdir: where the run would put its checkpoints; any that are there must be those of the same run.
    """
    stages = check_settings(config)
    unread.check(config)
    if workdir is not None:
        held_out.check(config)
        trackers.check(config)
        places.check_folder("--workdir", workdir)
        price.check_rows(config, stages)
    try:
        corpus, tokenizer = _load_data(config, stages, workdir)
    except sources.NoSplit as error:
        if workdir is not None and _check_workdir(config, pathlib.Path(workdir)):
            raise UserError(
                f"data.path={config.data.path!r}: not the text that the run in --workdir={str(workdir)!r} "
                f"was trained on, which could be split ({str(error).rstrip('.')}); bring the old files "
                "back, or start in a new --workdir."
            ) from error
        raise
    if workdir is not None:
        _check_workdir(config, pathlib.Path(workdir))
    return Checked(corpus, tokenizer, stages)


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
    _check_extend(config, trained)
    return stages


def _check_extend(config: Settings, trained: int) -> None:
    extend = config.extend
    unread.check_extend(config)
    if min(extend.lengths, default=trained) < trained:
        raise UserError(
            f"extend.lengths={extend.lengths}: {min(extend.lengths)} is below the trained length; "
            f"{trained} or more works."
        )
    for field, known in (("methods", extension.EXTENSIONS), ("tunings", extension.TUNINGS)):
        for i, name in enumerate(getattr(extend, field)):
            if name not in known:
                raise unknown_name(f"extend.{field}[{i}]", name, known)


def check_extend_checkpoint(config: Settings) -> tuple[int, tokenizers.Tokenizer]:
    """(tokens that a model of Hugging Face was trained for, its tokenizer), for experiments.extend.

    Raises UserError for settings of the model or of the comparison that cannot work.
    """
    trained = stretched(config.model.rope)
    bounds.check_extend(config)
    check_settings(dataclasses.replace(config, stages=(StageConfig(seq_len=trained, steps=1),)))
    tokenizer = tokenizers.of(config.data)
    tokenizers.check_vocabulary(tokenizer, config.model.vocab_size)
    if config.extend.tunings:
        raise UserError(
            f"extend.tunings={config.extend.tunings} are for the recall task; experiments.train continues "
            "training from init_from."
        )
    _check_extend(config, trained)
    return trained, tokenizer


def _load_data(config: Config, stages, workdir) -> tuple[sources.Corpus, tokenizers.Tokenizer]:
    data = config.data
    if workdir is not None:
        _, kept = configs.kept(pathlib.Path(workdir), config.init_from, data.tokenizer)
        data = dataclasses.replace(data, tokenizer=kept)
    tokenizer = tokenizers.of(data)
    tokenizers.check_vocabulary(tokenizer, config.model.vocab_size)
    pipeline.check(config.data, stages, tokenizer)
    return sources.load(config.data), tokenizer


def _check_workdir(config: Config, workdir: pathlib.Path) -> bool:
    """Whether the workdir holds a run to continue, which then is this one."""
    stored = configs.stored(workdir)
    if stored is None:
        metrics.check_start(workdir, config.checkpoint.start_over)
        return False
    try:
        before = configs.from_config_dict(stored)  # fields that are newer than it have their defaults
        identity.check_same_run(dataclasses.asdict(before), dataclasses.asdict(config))
    except UserError as error:
        raise UserError(f"--workdir={str(workdir)!r}: {error} Or delete it to start again.") from error
    return True
