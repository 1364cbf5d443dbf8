"""The model that a command line names, a run or one of Hugging Face, as what is asked: its weights not read yet."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from experiments.planner import price
from experiments.run import models, processes
from experiments.settings import checks
from experiments.settings import config as configs
from experiments.settings.tree import Settings
from longctx.data import special_tokens, tokenizers
from longctx.errors import UserError
from longctx.generation.request import stops


class Opened(NamedTuple):
    """A model to ask.

    Attributes:
      ends: the tokens that end an answer.
      folder: of its tokenizer.
      longest: of the rows that it is made for, in tokens.
      params: mesh -> its parameters.
    """

    name: str
    config: Settings
    tokenizer: tokenizers.Tokenizer
    ends: tuple[int, ...]
    folder: pathlib.Path
    longest: int
    params: Callable[..., dict]

    def load(self):
        """The longctx.evals.predictor.Model. Raises UserError where its parameters do not fit."""
        from longctx.evals.predictor import predictor

        mesh = processes.start(self.config.mesh)
        price.check(self.config, mesh)
        return predictor(self.config, mesh, self.params(mesh), self.config.model.rope)


def opened(settings: list[str], workdir: str | None, adapter: str | None) -> Opened:
    """The model of --workdir, or of --config.init_from among the settings. Raises UserError for none, and for both."""
    found = models.named(["harness", *settings])
    if (found is None) == (workdir is None):
        raise UserError("give --workdir DIR of a run, or --config.init_from=MODEL; one of the two is asked.")
    if found is not None:
        return _of_model(settings, adapter)
    models.require_no_adapter(adapter, workdir)
    return _of_run(settings, workdir)


def _of_run(settings: list[str], workdir: str) -> Opened:
    config, folder = configs.from_workdir(["harness", "--workdir", workdir, *settings])
    checks.check_settings(config)

    def params(mesh):
        from experiments.run.records import load_params

        return load_params(config, folder, mesh)[1]

    file = pathlib.Path(config.data.tokenizer)
    longest = max(stage.seq_len for stage in config.stages)
    return _opened(config, file.parent if file.is_file() else file, None, longest, params)


def _of_model(settings: list[str], adapter: str | None) -> Opened:
    from longctx.hf import folder
    from longctx.hf.rope import stretched

    argv = ["harness", *settings, *(["--adapter", adapter] if adapter else [])]
    named = models.of_command_line(argv, "", more=("data",))
    checks.check_settings(named.config)
    longest = stretched(named.config.model.rope) or folder.longest(folder.settings(named.source))
    return _opened(named.config, named.source, special_tokens.ends(named.source), longest, named.load)


def _opened(config: Settings, folder: pathlib.Path, ends: tuple[int, ...] | None, longest: int, params) -> Opened:
    tokenizer, vocab_size = tokenizers.of(config.data), config.model.vocab_size
    tokenizers.check_vocabulary(tokenizer, vocab_size)
    ends = stops(ends or tokenizer.ends, vocab_size)
    return Opened(config.name, config, tokenizer, ends, folder, longest, params)
