"""Low-rank adapters in peft's format: adapter_config.json and adapter_model.safetensors, in and out.

lora_A of a projection is our `a` and lora_B our `b`, transposed, under the name that the projection has in the model's
own checkpoint; those of the embedding are lora_embedding_A and lora_embedding_B. Of a tensor of all experts peft wraps
the module that has it ("target_parameters"): rows of lora_A go by expert and then rank, columns of lora_B by rank and
then expert. A tensor that holds several of our weights (Phi-3's qkv_proj, gate_up_proj of experts) has no low-rank form
that is ours.
"""

import dataclasses
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from longctx.config import AttentionConfig, LoraConfig, ModelConfig
from longctx.errors import UserError
from longctx.hf import files, parameters
from longctx.hf.architectures import Architecture
from longctx.hf.fields import POSITIVE, SIZE, shown
from longctx.hf.parameters import Parameter
from longctx.hf.tensors import Piece
from longctx.json_files import read_object
from longctx.model import functional, lora, paths

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_AT = "base_model.model."
_HEAD = f"{_AT}lm_head"  # whatever files call it, GPT-NeoX's embed_out too
_BASE = ".base_layer.weight"  # what peft also writes of an embedding and a head that it adapts
# settings of peft that say nothing about the numbers, or nothing that the tensors do not
_HARMLESS = frozenset(
    "task_type auto_mapping peft_version base_model_name_or_path revision inference_mode target_modules "
    "exclude_modules lora_dropout layers_to_transform layers_pattern megatron_config megatron_core eva_config "
    "loftq_config qalora_group_size ensure_weight_tying runtime_config".split()
)
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # ways to draw them that leave the base as it is


def read(folder: pathlib.Path, architecture: Architecture, model: ModelConfig) -> tuple[LoraConfig, dict]:
    """(the settings of the adapter in a folder, its tensors), for a model of that architecture.

    Raises:
      UserError: for a folder that holds none, for settings of peft that are not LoRA's own, for an adapter of another
        model.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} has no {CONFIG}; it must be the folder of an adapter in peft's format.")
    content = read_object(folder / CONFIG)
    rank, alpha = _scale(content, folder)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} has no {WEIGHTS}; save the adapter with safetensors.")
    stored, known, used, targets = files.header(folder / WEIGHTS), lora.known(model), set(), []
    _check_parameters(content.get("target_parameters") or (), architecture, model, folder)
    for path in known:
        names = {name for piece in _pieces(architecture, model, path) or () for name in _names(piece, model, path)}
        if names and names <= stored.keys():
            used |= names
            targets.append(path)
    modules, ends = {name.rpartition(".lora_")[0] for name in used}, _ends(architecture).keys()
    used |= {f"{module}{_BASE}" for module in modules & ends}
    if left := [name for name in stored if name not in used]:
        if model.tied_head and any(name.startswith(f"{module}.") for name in left for module in ends):
            raise UserError(
                f"{folder} holds {left[0]}, and the head of this model is its embedding: adapters know the two only "
                "where they are apart. Merge it with peft (merge_and_unload), and load the model that this gives."
            )
        raise UserError(
            f"{folder} is the adapter of another model, or not one of all its layers: it holds {files.listed(left, 2)}."
        )
    return LoraConfig(rank, alpha, _short(targets, known)), stored


def _ends(architecture: Architecture) -> dict[str, str]:
    """{peft's module: the tensor in the model's own checkpoint} of the embedding and the head."""
    table, head = (architecture.outside[path].name for path in (lora.TABLE, lora.HEAD))
    return {_module(table): table, _HEAD: head}


def _module(tensor: str) -> str:
    """peft's name of the module that has a tensor."""
    return _AT + tensor.rpartition(".")[0]


def _check_parameters(named, architecture: Architecture, model: ModelConfig, folder: pathlib.Path) -> None:
    """UserError for a parameter among peft's target_parameters that is not one weight of ours."""
    whole = (_parameter(architecture, model, path) for path in lora.known(model))
    known = sorted({parameter.rpartition(".")[2] for parameter in whole if parameter})
    for parameter in named:
        if str(parameter).rpartition(".")[2] not in known:
            of_experts = f"{', '.join(known)} can have adapters" if known else "this model has none that adapters know"
            raise UserError(f"{folder / CONFIG}: target_parameters has {parameter!r}; {of_experts}.")


def check_base(stored: dict, base: dict, architecture: Architecture) -> None:
    """Raises UserError where an adapter's file holds an embedding or a head that is not the model's.

    stored: tensors of the adapter. base: of the model.
    """
    ends = {f"{module}{_BASE}": tensor for module, tensor in _ends(architecture).items()}
    for name in ends.keys() & stored.keys():
        own, theirs = stored[name], base[ends[name]]
        same = own.shape == theirs.shape and np.array_equal(own.view().astype("f4"), theirs.view().astype("f4"))
        if not same:
            raise UserError(
                f"{own.path.parent} holds {name}, which is not the model's: it was trained, or resized. Merge it with "
                "peft (merge_and_unload), and load the model that this gives."
            )


def _scale(content: dict, folder: pathlib.Path) -> tuple[int, float]:
    """(rank, alpha) of an adapter_config.json. Raises UserError for what is more than LoRA."""
    plain = {"peft_type": "LORA", "bias": "none"}
    for name, value in content.items():
        if name in _HARMLESS or name in ("r", "lora_alpha", "use_rslora", "target_parameters"):
            continue
        fits = value in _STARTS if name == "init_lora_weights" else value == plain[name] if name in plain else not value
        if not fits:
            raise UserError(f"{folder / CONFIG}: {shown(name, value)} is not known; plain LoRA is.")
    rank, alpha = content.get("r", 0), content.get("lora_alpha", 0)
    SIZE.check("r", rank, f"{folder / CONFIG}: ")
    POSITIVE.check("lora_alpha", alpha, f"{folder / CONFIG}: ")
    rank, alpha = int(rank), float(alpha)
    return rank, alpha * math.sqrt(rank) if content.get("use_rslora") else alpha


def load(stored: dict, architecture: Architecture, config: ModelConfig, mesh) -> dict:
    """The adapters, float32, as the part of the parameters that they are; config: with the LoraConfig that `read` gave.

    Raises UserError for tensors of another shape than the model's.
    """
    with jax.set_mesh(mesh):
        shapes = part(jax.eval_shape(lambda: functional.init(config, AttentionConfig(), jax.random.key(0))))
        located = locate(architecture, config, shapes)
        _require_shapes(located, stored)
        place = lambda leaf, parameter: parameters.load(
            parameter, stored, NamedSharding(mesh, leaf.sharding.spec), jnp.dtype("float32"), jnp.dtype(config.dtype)
        )
        return jax.tree.map(place, shapes, located)


def _require_shapes(located: dict, stored: dict) -> None:
    """UserError unless the tensors have the shapes that the model and the rank ask for."""
    for parameter in jax.tree.leaves(located, is_leaf=lambda x: isinstance(x, Parameter)):
        for name, shape in parameter.tensors().items():
            if stored[name].shape != shape:
                raise UserError(
                    f"{stored[name].path.parent} is the adapter of another model: {name} is "
                    f"{list(stored[name].shape)}, and in this one {list(shape)}."
                )


def part(params: dict) -> dict:
    """The adapters among the parameters."""
    return paths.picked(params, lambda path: path.rpartition(".")[2] in paths.ADAPTERS)


def locate(architecture: Architecture, config: ModelConfig, adapters: dict) -> dict:
    """A tree like `adapters` (arrays or their shapes) with a Parameter for each array. Raises UserError for a weight
    that is only a part of a tensor."""

    def parameter(path, leaf):
        *names, which = (str(key.key) for key in path)
        weight = ".".join(names)
        pieces = _pieces(architecture, config, weight)
        if pieces is None:
            raise UserError(
                f"{paths.inside(weight)} is a part of a larger tensor in models of {architecture.class_name}, so that "
                "peft's format has no place for its adapter; export without --adapter merges it."
            )
        piece, stacked = pieces[paths.ADAPTERS.index(which)], names[0] == "blocks"
        shape = leaf.shape[1:] if stacked else leaf.shape
        return Parameter(shape, tuple((name, piece) for name in _names(piece, config, weight)), stacked)

    return jax.tree_util.tree_map_with_path(parameter, adapters)


def _pieces(architecture: Architecture, config: ModelConfig, weight: str) -> tuple[Piece, Piece] | None:
    """The pieces of a and b, {layer} standing for its number; None where the weight is not a whole tensor."""
    base = _base(architecture, config, weight)
    theirs, ours = base.form.split(" -> ")
    if "P" in theirs:
        return None
    module = _HEAD if weight == lora.HEAD else _module(base.name)
    if weight == lora.TABLE:
        assert theirs == ours == "V D", f"{weight}: {base.form}"
        return Piece(f"{module}.lora_embedding_A", "R V -> V R"), Piece(f"{module}.lora_embedding_B", "D R -> R D")
    if _parameter(architecture, config, weight):
        _, into, out = ours.split()
        a = Piece(f"{module}.lora_A.weight", f"(E R) {into} -> E {into} R")
        return a, Piece(f"{module}.lora_B.weight", f"{out} (R E) -> E R {out}")
    outputs, inputs = groups = re.findall(r"\([^)]*\)|\w", theirs)
    out, into = (group.strip("()") for group in groups)
    assert ours == f"{into} {out}", f"{weight}: {base.form}"
    a = Piece(f"{module}.lora_A.weight", f"R {inputs} -> {into} R")
    return a, Piece(f"{module}.lora_B.weight", f"{outputs} R -> R {out}")


def _base(architecture: Architecture, config: ModelConfig, weight: str) -> Piece:
    """The piece of the weight itself."""
    if not weight.startswith("blocks."):
        return architecture.outside[weight]
    return architecture.layer(config, config.kinds[int(weight.split(".")[1])])[paths.inside(weight)]


def _parameter(architecture: Architecture, config: ModelConfig, weight: str) -> str | None:
    """The name of the tensor of all experts that the weight is, None where it is another."""
    base = _base(architecture, config, weight)
    return base.name if re.fullmatch(r"E \w \w -> E \w \w", base.form) else None


def _names(piece: Piece, config: ModelConfig, weight: str) -> list[str]:
    """The names of a piece's tensors in the layers of the weight's kind; of the embedding and the head the one."""
    kinds = len(config.kinds)
    if not weight.startswith("blocks."):
        return [piece.name]
    return [piece.name.format(layer=i) for i in range(int(weight.split(".")[1]), config.layers, kinds)]


def _short(targets: list[str], known: list[str]) -> tuple[str, ...]:
    """Patterns for these paths: names inside a layer where all kinds of layers that have such a weight are meant."""
    whole = lambda name: all(path in targets for path in known if paths.inside(path) == name)
    return tuple(dict.fromkeys(paths.inside(path) if whole(paths.inside(path)) else path for path in targets))


def write(
    directory: pathlib.Path, architecture: Architecture, config: ModelConfig, adapters: dict, base: str, active: bool
):
    """Writes the folder that peft's PeftModel.from_pretrained loads; base: the model's name or folder, for people.

    active: False makes the tensors, with the other processes, and writes nothing.
    """
    located = locate(architecture, config, adapters)
    tensors = parameters.Tensors(located, adapters)
    values = {name: tensors(name) for name in tensors.planned}
    alpha, of_experts = config.lora.alpha, _target_parameters(architecture, config)
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": config.lora.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": _modules(tensors.planned, config, {_module(parameter) for parameter in of_experts}),
        **({"target_parameters": of_experts} if of_experts else {}),
        "inference_mode": True,
    }
    if active:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG).write_text(json.dumps(content, indent=2) + "\n")
        files.save({name: np.ascontiguousarray(value) for name, value in values.items()}, directory / WEIGHTS)


def _target_parameters(architecture: Architecture, config: ModelConfig) -> list[str]:
    """peft's target_parameters: the tensors of all experts that have adapters, by their whole names."""
    found = []
    for weight in lora.names(config):
        if parameter := _parameter(architecture, config, weight):
            found += _names(Piece(parameter), config, weight)
    return sorted(found)


def _modules(names, config: ModelConfig, wrapped: set[str]) -> list[str]:
    """peft's target_modules: last names of projections, where all layers have an adapter there, else whole names.

    wrapped: modules that peft wraps for their parameters, which are none of these.
    """
    modules = {name.rpartition(".lora_")[0] for name in names} - wrapped
    modules = sorted(module.removeprefix(_AT) for module in modules)
    last = [module.rpartition(".")[2] for module in modules]
    inside = {name for name, module in zip(last, modules, strict=True) if re.search(r"\.\d+\.", module)}
    everywhere = all(last.count(name) == config.layers for name in inside)
    return sorted(set(last)) if everywhere else modules


def check_same(wanted: ModelConfig, found: LoraConfig) -> None:
    """Raises UserError where a run's model.lora is not that of the adapter that it starts from."""
    adapted = lambda own: lora.names(dataclasses.replace(wanted, lora=own))
    own = wanted.lora
    if (own.rank, own.alpha) != (found.rank, found.alpha) or adapted(own) != adapted(found):
        raise UserError(
            f"model.lora.adapter={own.adapter!r} has rank={found.rank}, alpha={found.alpha}, targets={found.targets}; "
            f"model.lora, with rank={own.rank}, alpha={own.alpha}, targets={own.targets}, must be the same."
        )
