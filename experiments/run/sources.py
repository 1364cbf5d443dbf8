"""Models that continue texts, as commands name them: the workdir of a run, or a model of Hugging Face. Free of jax."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.planner import price
from experiments.run import models, processes
from experiments.settings import config as configs
from longctx.config import Config
from longctx.data import special_tokens, tokenizers
from longctx.errors import UserError

CONTEXT = 8192  # tokens that a conversation has room for, unless the model's rows are shorter


class Source(NamedTuple):
    """A model that continues prompts, its weights not read yet.

    ends: the tokens that end the text. load: tokens that a cache must hold -> (mesh, graph, params). folder: that of
    its tokenizer. longest: of the rows that it is made for, in tokens.
    """

    tokenizer: tokenizers.Tokenizer
    vocab_size: int
    ends: tuple[int, ...]
    load: Callable[[int], tuple]
    folder: pathlib.Path = pathlib.Path()
    longest: int = CONTEXT

    def turns(self, conversation: str) -> np.ndarray:
        """The tokens of a conversation as the chat template wrote it."""
        return self.tokenizer.encode_prompt(conversation.encode(), self.vocab_size, "the conversation", start=False)


def of_run(path: str, overrides: list[str], tokenizer: str | None = None) -> Source:
    """The source in the workdir of a run. A text ends where its documents end, and as its tokenizer's folder says."""
    from experiments.settings import checks

    config, workdir = configs.from_workdir(["command", "--workdir", path, *overrides])
    checks.check_settings(config)
    tokenizer = tokenizers.of(dataclasses.replace(config.data, tokenizer=tokenizer or config.data.tokenizer))

    def load(cached):
        import jax

        from experiments.run.records import load_params
        from longctx.model import functional

        mesh = processes.start(config.mesh)
        price.check(config, mesh, cached=cached)
        _, params = load_params(config, workdir, mesh)
        with jax.set_mesh(mesh):
            return mesh, functional.graph(config.model, config.attention), params

    file, longest = pathlib.Path(config.data.tokenizer), max(stage.seq_len for stage in config.stages)
    folder = file.parent if file.is_file() else file
    return Source(tokenizer, config.model.vocab_size, tokenizer.ends, load, folder, longest)


def of_hugging_face(
    path: str, overrides: list[str], tokenizer: str | None = None, adapter: str | None = None, field: str = "path"
) -> Source:
    """The source in a Hugging Face folder, a .gguf file or the hub's cache. A text ends as config.json and
    generation_config.json say."""
    from experiments.settings import checks
    from longctx.hf import folder, sources

    source = sources.folder(path, field)
    tokenizer, stored = tokenizers.load(tokenizer or str(source)), folder.model_config(source)
    config = Config(model=stored)
    if overrides:
        config = models.settings(source, stored, overrides)
        checks.check_settings(config)

    def load(cached):
        import jax

        from longctx.model import functional

        mesh = processes.start(config.mesh)
        price.check(config, mesh, cached=cached)
        model, params = models.load(source, stored, config.model, mesh, adapter)
        with jax.set_mesh(mesh):
            return mesh, functional.graph(model, config.attention), params

    ends, longest = special_tokens.ends(source) or tokenizer.ends, folder.longest(folder.settings(source))
    return Source(tokenizer, stored.vocab_size, ends, load, source, longest)


def of(path: str, field: str, overrides: list[str], tokenizer: str | None = None, adapter: str | None = None) -> Source:
    """The source at a path, which the option or setting `field` named; overrides: --config.field=value.

    Raises UserError for a path with neither a run nor a model, and for an adapter of a run.
    """
    if configs.stored(path) is not None:
        models.require_no_adapter(adapter, path)
        return of_run(path, overrides, tokenizer)
    if pathlib.Path(path).is_dir() and not (pathlib.Path(path) / "config.json").is_file():
        raise UserError(
            f"{field}={path!r} is neither the workdir of a run that has saved a checkpoint nor a folder "
            "with the config.json of a Hugging Face model."
        )
    return of_hugging_face(path, overrides, tokenizer, adapter, field)
