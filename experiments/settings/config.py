"""Between config files and the library: ConfigDicts for people to fill in, frozen dataclasses for the code.

A config file starts from `defaults()`, sets fields and lists `stage(...)`s. `from_command_line` reads it, applies the
--config.field=value of the command line and gives `tree.Settings`, a `longctx.config.Config`; `check` of
experiments/run/checks.py then finds everything that can be known to be wrong before a device is touched. Nothing here
imports jax.
"""

import dataclasses
import os
import pathlib
import types
import typing

from ml_collections import config_dict
from ml_collections.config_dict import ConfigDict

from experiments.settings import command_line, files, former, said
from experiments.settings.bounds import LARGEST
from experiments.settings.files import arguments as arguments
from experiments.settings.tree import Settings
from longctx.checkpoints import identity
from longctx.config import Config, LayerConfig, RopeConfig, StageConfig
from longctx.errors import UserError, unknown_name

AUTO = "auto"
_WORKS = {"strategy": "ring", "layout": "contiguous"}  # for every mesh, mask and length
# folders in a workdir
CHECKPOINTS = "checkpoints"  # meta["config"] is dataclasses.asdict(config), meta["stage"] that of the step
INIT_FROM, TOKENIZER = "init_from", "tokenizer"  # what a run keeps of these folders: see records.keep_sources


def from_command_line(argv: list[str]) -> tuple[Settings, pathlib.Path]:
    """The settings that a command line asks for, and its workdir: --workdir, or runs/<config.name>.

    Simulated devices need NPROC in the environment before jax starts, so it is set here.

    Raises:
      UserError: one line about the first thing that cannot be understood.
    """
    tree, given = command_line.parse(argv, defaults())
    workdir = pathlib.Path(given) if given else pathlib.Path("runs") / tree.name
    return _ready(_started(tree, workdir) if tree.init_from else tree), workdir


def from_workdir(argv: list[str]) -> tuple[Settings, pathlib.Path]:
    """The same for a command about an existing run: its settings, and what --config.field=value changes in them.

    They are those its newest checkpoint was made with; model.rope is that of the stage that it was made in, init_from
    and data.tokenizer are the copies that the run keeps.
    """
    tree, workdir = command_line.parse(argv, defaults(), _stored_tree)
    return _ready(tree), pathlib.Path(workdir)


def stored(workdir) -> dict | None:
    """The configuration of the checkpoints in a workdir, as nested dicts from JSON; None where there are none."""
    meta = identity.peek(pathlib.Path(workdir) / CHECKPOINTS)
    return None if meta is None else meta["config"]


def kept(workdir: pathlib.Path, init_from: str, tokenizer: str) -> tuple[str, str]:
    """init_from and data.tokenizer as they are read: for the run whose checkpoints are in the workdir the copies that
    it made when it started, which outlive the folders."""
    before = stored(workdir)
    if before is None:
        return init_from, tokenizer
    started, known = before.get("init_from"), before["data"]["tokenizer"]
    copy = lambda value, own, name: str(workdir / name) if value == own and (workdir / name).is_dir() else value
    return copy(init_from, started, INIT_FROM), copy(tokenizer, known, INIT_FROM if known == started else TOKENIZER)


def left_open(config: Config) -> list[str]:
    """The names of attention that experiments.train, plan and comm are to choose: see planner/auto.py."""
    return [name for name in _WORKS if getattr(config.attention, name) == AUTO]


def stand_in(config: Config) -> Config:
    """With names that always work for those left open, so that all the rest can be checked."""
    return with_attention(config, **{name: _WORKS[name] for name in left_open(config)})


def with_attention(config: Config, **fields) -> Config:
    """Another way to attend."""
    return dataclasses.replace(config, attention=dataclasses.replace(config.attention, **fields))


def defaults() -> ConfigDict:
    """Every field of Settings with its default. Locked: an unknown field is an error."""
    return to_config_dict(Settings())


def stage(**fields) -> ConfigDict:
    """A stage of the curriculum: the fields of StageConfig, e.g. stage(seq_len=2048, steps=50, rope=rope(theta=3e4)).

    A field of its rope that is not given is None and means the model's, so --config.stages[1].rope.theta=1e6 changes
    one of them alone.
    """
    return _filled(_stage(StageConfig(), RopeConfig()), "stage", fields)


def rope(**fields) -> ConfigDict:
    """The rope of a stage: those fields of RopeConfig in which it differs from the model's."""
    return _filled(_difference(None, RopeConfig()), "rope", fields)


def layer(**fields) -> ConfigDict:
    """A kind of layer for model.pattern: the fields of LayerConfig, e.g. layer(position="nope").

    A rope(...) given here is whole: the fields that it leaves open have their defaults, whatever the model's are.
    """
    if fields.get("rope") is not None:
        own = {name: value for name, value in fields["rope"].items() if value is not None}
        fields["rope"] = _filled(_section(RopeConfig()), "rope", own)
    return _filled(_section(LayerConfig()), "layer", fields)


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
    same = lambda one: dataclasses.replace(one, rope=None) if one.rope == config.model.rope else one
    return dataclasses.replace(config, stages=tuple(same(one) for one in config.stages))


def _ready(tree: ConfigDict) -> Settings:
    config = from_config_dict(tree)
    if config.mesh.simulate > 0:
        os.environ["NPROC"] = "32"  # fewer threads than simulated devices: their collectives hang
    return config


def _started(tree: ConfigDict, workdir: pathlib.Path) -> dict:
    """The tree with the model, and unless one was said the tokenizer, of the folder init_from; see Config.init_from."""
    from experiments.settings import folder

    asked = from_config_dict(tree).model
    source, _ = kept(workdir, tree.init_from, "")
    return folder.started(_plain(tree), asked, said.said(tree), tree.init_from, source)


def _stored_tree(workdir: str | None) -> ConfigDict:
    if workdir is None:
        raise UserError("--workdir is missing; give the folder of a run, such as --workdir runs/quickstart.")
    meta = identity.peek(pathlib.Path(workdir) / CHECKPOINTS)
    if meta is None:
        raise UserError(f"--workdir={workdir!r} holds no checkpoints; give the folder of a run that has saved one.")
    config = from_config_dict(meta["config"])
    stages = tuple(dataclasses.replace(one, rope=one.rope or config.model.rope) for one in config.stages)
    model = dataclasses.replace(config.model, rope=stages[meta["stage"]].rope)
    init_from, tokenizer = kept(pathlib.Path(workdir), config.init_from, config.data.tokenizer)
    data = dataclasses.replace(config.data, tokenizer=tokenizer)
    return to_config_dict(dataclasses.replace(config, stages=stages, model=model, data=data, init_from=init_from))


def _section(instance, **given) -> ConfigDict:
    """The fields of a dataclass in their order, with the values `given` in place of its own."""
    section = said.Section(sort_keys=False)
    for field in dataclasses.fields(instance):
        value = given.get(field.name, getattr(instance, field.name))
        section[field.name] = _tree(value)
    return section.lock()


def _tree(value):
    if isinstance(value, tuple):
        return tuple(_tree(item) for item in value)
    return _section(value) if dataclasses.is_dataclass(value) else value


def _stage(one: StageConfig, model_rope: RopeConfig) -> ConfigDict:
    return _section(one, rope=_difference(one.rope, model_rope))


def _difference(one: RopeConfig | None, model: RopeConfig) -> ConfigDict:
    """The fields in which a rope differs from the model's; None, but of the right type, in the others."""
    section = said.Section(sort_keys=False)
    for field in dataclasses.fields(RopeConfig):
        section[field.name] = config_dict.placeholder(typing.get_origin(field.type) or field.type)
        if one is not None and getattr(one, field.name) != getattr(model, field.name):
            section[field.name] = getattr(one, field.name)
    return section.lock()


def _filled(section: ConfigDict, what: str, fields: dict) -> ConfigDict:
    for name, value in fields.items():
        if name not in section:
            raise unknown_name(f"{what} field", name, section)
        if isinstance(section[name], ConfigDict):
            _filled(section[name], name, {} if value is None else dict(value.items()))
        else:
            section[name] = value
    return section


def _plain(tree):
    """ConfigDicts as dicts, lists as tuples."""
    if isinstance(tree, ConfigDict | dict):
        return {name: _plain(value) for name, value in tree.items()}
    return tuple(_plain(value) for value in tree) if isinstance(tree, tuple | list) else tree


def _with_whole_ropes(tree: dict) -> dict:
    """The tree with the model's rope behind the fields that the rope of a stage leaves open."""
    model, stages = tree.get("model", {}), tree.get("stages", ())
    if not isinstance(model, dict) or not isinstance(stages, tuple):
        return tree  # of another type: an error that _dataclass finds
    whole = []
    for one in stages:
        if isinstance(one, dict) and isinstance(one.get("rope"), dict):
            own = {name: value for name, value in one["rope"].items() if value is not None}
            one = {**one, "rope": {**model.get("rope", {}), **own} if own else None}
        whole.append(one)
    return {**tree, "stages": tuple(whole)} if "stages" in tree else tree


def _dataclass(kind: type, tree, path: str):
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
    """`value` as the field's annotation has it: a dataclass, tuple[x, ...], x | None, int, float, bool or str."""
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
        wanted = "a finite number, at most 3.4e38" if kind is float else kind.__name__
        raise UserError(f"{field}={value!r} must be {wanted}.")
    return kind(value)
