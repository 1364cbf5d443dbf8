"""Conversion between ConfigDicts, which people fill in, and the frozen dataclasses that the code reads.

A config file starts from `defaults()`, sets fields and lists `stage(...)`s. `from_command_line` reads it, applies the
--config.field=value of the command line and gives `tree.Settings`, a `longctx.config.Config`; `check` of
experiments/run/checks.py then finds every mistake that can be found before a device is touched. Nothing here
imports jax.
"""

import dataclasses
import os
import pathlib
import types
import typing

from ml_collections import config_dict
from ml_collections.config_dict import ConfigDict

from experiments.settings import command_line, files, former
from experiments.settings.bounds import LARGEST
from experiments.settings.explicit import Section, explicit
from experiments.settings.files import arguments as arguments
from experiments.settings.tree import Settings
from longctx.checkpoints import identity
from longctx.config import Config, LayerConfig, RopeConfig, SourceConfig, StageConfig
from longctx.errors import UserError, unknown_name

AUTO = "auto"
CONTINUED = 2e-5  # learning rate that leaves what a model has learnt: continued pretraining takes 1e-5 to 3e-5
_WORKS = {"strategy": "ring", "layout": "contiguous"}  # for every mesh, mask and length
# folders in a workdir
CHECKPOINTS = "checkpoints"  # meta["config"] is dataclasses.asdict(config), meta["stage"] the index of the stage
INIT_FROM, TOKENIZER = "init_from", "tokenizer"  # a run's copies of these sources, see records.keep_sources


def from_command_line(argv: list[str]) -> tuple[Settings, pathlib.Path]:
    """(settings of a command line, workdir): the workdir is --workdir, or else runs/<config.name>.

    Sets NPROC in the environment for simulated devices, which need it before jax starts.

    Raises:
      UserError: one line about the first mistake.
    """
    return _of_tree(*command_line.parse(argv, defaults()))


def for_training(argv: list[str]) -> tuple[Settings, pathlib.Path, list[str]]:
    """`from_command_line` for a command that trains, and lines about what was chosen.

    A model that init_from names is trained further: by CONTINUED unless a learning rate is set, and on a text that must
    be named, since the default one is for the examples.
    """
    tree, option = command_line.parse(argv, defaults())
    said = explicit(tree)
    if not tree.init_from:
        return *_of_tree(tree, option), []
    if "path" not in said.get("data", {}):
        raise UserError(
            f"init_from={tree.init_from!r} is trained further on a text of yours: name its file or folder by "
            "--config.data.path=TEXT; --config.data.path=stdlib is Python's own library."
        )
    notes = []
    if "learning_rate" not in said.get("optim", {}):
        tree.optim.learning_rate = CONTINUED
        notes = [f"optim.learning_rate={CONTINUED}, as it suits a model that is trained further; set it to change it"]
    return *_of_tree(tree, option), notes


def _of_tree(tree: ConfigDict, option: str | None) -> tuple[Settings, pathlib.Path]:
    workdir = pathlib.Path(option) if option else pathlib.Path("runs") / tree.name
    return _ready(_with_folder(tree, workdir) if tree.init_from else tree), workdir


def from_workdir(argv: list[str]) -> tuple[Settings, pathlib.Path]:
    """(settings of an existing run, workdir), with the changes of --config.field=value.

    The settings are those of the newest checkpoint. model.rope is the rope of the stage in which it was saved;
    init_from and data.tokenizer are the copies that the run keeps.
    """
    tree, workdir = command_line.parse(argv, defaults(), _stored_tree)
    return _ready(tree), pathlib.Path(workdir)


def stored(workdir) -> dict | None:
    """The configuration of the checkpoints in a workdir, as nested dicts from JSON; None where there are none."""
    meta = identity.peek(pathlib.Path(workdir) / CHECKPOINTS)
    return None if meta is None else meta["config"]


def kept(workdir: pathlib.Path, init_from: str, tokenizer: str) -> tuple[str, str]:
    """(init_from, data.tokenizer) as they are read: a run's own copies in its workdir, which outlive the folders.

    A source that is not the run's, or that it has no copy of, stays as it is.
    """
    config = stored(workdir)
    if config is None:
        return init_from, tokenizer
    folder, own_tokenizer = config.get("init_from"), config["data"]["tokenizer"]
    copy = lambda value, own, name: str(workdir / name) if value == own and (workdir / name).is_dir() else value
    name = INIT_FROM if own_tokenizer == folder else TOKENIZER
    return copy(init_from, folder, INIT_FROM), copy(tokenizer, own_tokenizer, name)


def left_open(config: Config) -> list[str]:
    """The fields of config.attention that are "auto", for planner/auto.py to choose."""
    return [name for name in _WORKS if getattr(config.attention, name) == AUTO]


def stand_in(config: Config) -> Config:
    """The config with names that always work in place of "auto", so that all other settings can be checked."""
    return with_attention(config, **{name: _WORKS[name] for name in left_open(config)})


def with_attention(config: Config, **fields) -> Config:
    """The config with these fields of config.attention replaced."""
    return dataclasses.replace(config, attention=dataclasses.replace(config.attention, **fields))


def defaults() -> ConfigDict:
    """Every field of Settings with its default. Locked: an unknown field is an error."""
    return to_config_dict(Settings())


def stage(**fields) -> ConfigDict:
    """A stage of the curriculum, with fields of StageConfig: stage(seq_len=2048, steps=50, rope=rope(theta=3e4)).

    A field of its rope that is not given is None, which means the model's value; so --config.stages[1].rope.theta=1e6
    changes that field alone.
    """
    return _filled(_stage(StageConfig(), RopeConfig()), "stage", fields)


def rope(**fields) -> ConfigDict:
    """The rope of a stage, with the fields of RopeConfig in which it differs from the model's: rope(theta=3e4)."""
    return _filled(_difference(None, RopeConfig()), "rope", fields)


def layer(**fields) -> ConfigDict:
    """A kind of layer for model.pattern, with fields of LayerConfig: layer(position="nope").

    A rope(...) in a layer is complete: fields that it leaves open have their defaults, not the model's values.
    """
    if fields.get("rope") is not None:
        own = {name: value for name, value in fields["rope"].items() if value is not None}
        fields["rope"] = _filled(_section(RopeConfig()), "rope", own)
    return _filled(_section(LayerConfig()), "layer", fields)


def source(name: str, path: str, share: float = 1.0, **fields) -> ConfigDict:
    """A source of text for data.mix, with fields of SourceConfig: source("code", "FOLDER", 0.3, shortest=1024)."""
    return _filled(_section(SourceConfig()), "source", {"name": name, "path": path, "share": float(share), **fields})


def to_config_dict(config: Settings) -> ConfigDict:
    """A locked ConfigDict of all fields. In the rope of a stage, those that are the model's are None."""
    return _section(config, stages=tuple(_stage(one, config.model.rope) for one in config.stages))


def from_config_dict(tree) -> Settings:
    """The Settings of a ConfigDict (or of nested dicts, such as stored JSON); absent fields have their defaults.

    Raises:
      UserError: for an unknown field, or a value that is not of its field's type.
    """
    tree = former.renamed(_plain(tree))
    config = _dataclass(Settings, _with_whole_ropes(tree), "")
    plain = lambda stage: dataclasses.replace(stage, rope=None) if stage.rope == config.model.rope else stage
    return dataclasses.replace(config, stages=tuple(map(plain, config.stages)))


def _ready(tree: ConfigDict) -> Settings:
    config = from_config_dict(tree)
    if config.mesh.simulate > 0:
        os.environ["NPROC"] = "32"  # fewer threads than simulated devices: their collectives hang
    return config


def _with_folder(tree: ConfigDict, workdir: pathlib.Path) -> dict:
    """The settings with the model, and unless another is set the tokenizer, of init_from; see Config.init_from."""
    from experiments.settings import folder
    from longctx.hf import sources

    model, init_from = from_config_dict(tree).model, tree.init_from
    source, _ = kept(workdir, init_from, "")
    if source == init_from:  # the run has no copy of it
        init_from = source = str(sources.folder(init_from, "init_from"))
    return folder.with_model(_plain(tree) | {"init_from": init_from}, model, explicit(tree), init_from, source)


def _stored_tree(workdir: str | None) -> ConfigDict:
    """The settings of the run in a workdir, see `from_workdir`."""
    if workdir is None:
        raise UserError("--workdir is missing; give the folder of a run, such as --workdir runs/quickstart.")
    meta = identity.peek(pathlib.Path(workdir) / CHECKPOINTS)
    if meta is None:
        raise UserError(f"--workdir={workdir!r} holds no checkpoints; give the folder of a run that has saved one.")
    config = from_config_dict(meta["config"])
    stages = tuple(dataclasses.replace(stage, rope=stage.rope or config.model.rope) for stage in config.stages)
    model = dataclasses.replace(config.model, rope=stages[meta["stage"]].rope)
    init_from, tokenizer = kept(pathlib.Path(workdir), config.init_from, config.data.tokenizer)
    data = dataclasses.replace(config.data, tokenizer=tokenizer)
    return to_config_dict(dataclasses.replace(config, stages=stages, model=model, data=data, init_from=init_from))


def _section(instance, **replaced) -> ConfigDict:
    """A locked Section with the fields of a dataclass in their order, some of them `replaced`."""
    section = Section(sort_keys=False)
    for field in dataclasses.fields(instance):
        section[field.name] = _tree(replaced.get(field.name, getattr(instance, field.name)))
    return section.lock()


def _tree(value):
    if isinstance(value, tuple):
        return tuple(_tree(item) for item in value)
    return _section(value) if dataclasses.is_dataclass(value) else value


def _stage(stage: StageConfig, model_rope: RopeConfig) -> ConfigDict:
    return _section(stage, rope=_difference(stage.rope, model_rope))


def _difference(rope: RopeConfig | None, model: RopeConfig) -> ConfigDict:
    """The fields in which a rope differs from the model's; the others are None, with their field's type."""
    section = Section(sort_keys=False)
    for field in dataclasses.fields(RopeConfig):
        section[field.name] = config_dict.placeholder(typing.get_origin(field.type) or field.type)
        if rope is not None and getattr(rope, field.name) != getattr(model, field.name):
            section[field.name] = getattr(rope, field.name)
    return section.lock()


def _filled(section: ConfigDict, group: str, fields: dict) -> ConfigDict:
    """The section with `fields` set. Raises UserError for an unknown one; group: the section's name in the message."""
    for name, value in fields.items():
        if name not in section:
            raise unknown_name(f"{group} field", name, section)
        if isinstance(section[name], ConfigDict):
            _filled(section[name], name, {} if value is None else dict(value.items()))
        else:
            section[name] = value
    return section


def _plain(tree):
    """The tree with dicts for ConfigDicts and tuples for lists."""
    if isinstance(tree, ConfigDict | dict):
        return {name: _plain(value) for name, value in tree.items()}
    return tuple(_plain(value) for value in tree) if isinstance(tree, tuple | list) else tree


def _with_whole_ropes(tree: dict) -> dict:
    """The tree with the model's values in the fields that the rope of a stage leaves open."""
    model, stages = tree.get("model", {}), tree.get("stages", ())
    if not isinstance(model, dict) or not isinstance(stages, tuple):
        return tree  # a value of another type: _dataclass raises the error
    whole = []
    for stage in stages:
        if isinstance(stage, dict) and isinstance(stage.get("rope"), dict):
            own = {name: value for name, value in stage["rope"].items() if value is not None}
            stage = {**stage, "rope": {**model.get("rope", {}), **own} if own else None}
        whole.append(stage)
    return {**tree, "stages": tuple(whole)} if "stages" in tree else tree


def _dataclass(kind: type, tree, path: str):
    """The dataclass `kind` with the fields of `tree`, which stands at `path` of the settings. Raises UserError."""
    if not isinstance(tree, dict):
        raise UserError(
            f"{path}={tree!r} must be a group of fields: {', '.join(field.name for field in dataclasses.fields(kind))}."
        )
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in tree.items():
        field = f"{path}.{name}" if path else name
        if name not in hints:
            raise files.unknown_field(defaults(), field, path, hints)
        values[name] = _value(hints[name], value, field)
    return kind(**values)


def _value(kind, value, field: str):
    """`value` in the type of a field's annotation: a dataclass, tuple[x, ...], x | None, int, float, bool or str.

    Raises UserError for a value of another type.
    """
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, field)
    if typing.get_origin(kind) is types.UnionType:
        return None if value is None else _value(typing.get_args(kind)[0], value, field)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            raise UserError(f"{field}={value!r} must be a tuple.")
        return tuple(_value(typing.get_args(kind)[0], item, f"{field}[{i}]") for i, item in enumerate(value))
    fits = isinstance(value, int | float if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits or (kind is float and not abs(value) <= LARGEST):  # NaN compares false
        expected = "a finite number, at most 3.4e38" if kind is float else kind.__name__
        raise UserError(f"{field}={value!r} must be {expected}.")
    return kind(value)
