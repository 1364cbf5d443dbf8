"""The config.json in a model's folder, and the ModelConfig that it describes. Free of jax."""

import dataclasses
import pathlib
import re

from longctx.config import ModelConfig, RopeConfig
from longctx.errors import UserError, unknown_name
from longctx.hf import rope, sources
from longctx.hf.architectures import ARCHITECTURES, Architecture
from longctx.hf.fields import NAME, optional
from longctx.hf.settings import DTYPES
from longctx.json_files import read_object
from longctx.positions import api as positions

CONFIG = "config.json"
# the settings of RoPE, in both dialects
ROPE = (
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rope_local_base_freq",
    "rotary_emb_base",
    "rotary_pct",
    "partial_rotary_factor",
    "max_position_embeddings",
    "original_max_position_embeddings",
)


def model_config(path, rope_scaling: dict | RopeConfig | None = None) -> ModelConfig:
    """The ModelConfig of a Hugging Face model: dtype as in config.json, param_dtype as the embedding is stored.

    rope_scaling: replaces the folder's, see api.load.

    Raises:
      UserError: for an architecture, a setting or a quantization that is not known, or a folder that is no model's.
    """
    folder = sources.folder(path)
    content = settings(folder)
    architecture = architecture_of(content)
    name, stored = architecture.outside["embedding.table"].name, sources.tensors(folder)
    if name not in stored:
        raise UserError(f"{folder} has no tensor {name}, which a {content['model_type']} must have.")
    _require_sizes(architecture, content, name, stored)
    config = read(content, rope_scaling)
    param_dtype = stored[name].dtype.name
    return dataclasses.replace(config, param_dtype=param_dtype, dtype=dtype_of(content) or param_dtype)


def settings(folder: pathlib.Path) -> dict:
    """The content of config.json in a model's folder. Raises UserError where it is missing or no JSON object."""
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} has no {CONFIG}; it must be the folder of a Hugging Face model.")
    return read_object(folder / CONFIG)


def _require_sizes(architecture: Architecture, content: dict, table: str, stored: dict) -> None:
    """UserError unless the files hold as many layers as config.json says, and an embedding of its size.

    Called before anything whose time grows with these sizes. table: the name of the embedding's tensor.
    """
    checked = architecture.settings(content)
    layer = re.compile(rf"{re.escape(architecture.at)}\.(\d+)\.")
    layers = {match[1] for name in stored if (match := layer.match(name))}
    if checked["num_hidden_layers"] > len(layers):
        raise UserError(
            f"{CONFIG}: num_hidden_layers={checked['num_hidden_layers']}, and the files hold {len(layers)}."
        )
    if stored[table].shape != (checked["vocab_size"], checked["hidden_size"]):
        raise UserError(
            f"{CONFIG}: vocab_size={checked['vocab_size']} and hidden_size={checked['hidden_size']}, and "
            f"{table} is {list(stored[table].shape)}."
        )


def architecture_of(content: dict) -> Architecture:
    """The Architecture that config.json's model_type names. Raises UserError for an unknown one."""
    name = content.get("model_type")
    optional(NAME).check("model_type", name)
    if name not in ARCHITECTURES:
        raise unknown_name(f"{CONFIG}: model_type", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def read(content: dict, rope_scaling: dict | RopeConfig | None = None) -> ModelConfig:
    """The ModelConfig of a config.json's content, with default dtypes.

    rope_scaling: see api.load. A RopeConfig is taken with the file's pairing and rotary_fraction, with which the
    weights were made, and with the file's original_length where its own is 0.
    """
    if quantization := content.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise UserError(
            f"{CONFIG}: the weights are quantized ({method or 'unknown'}), which is not supported; save "
            "them in bfloat16, float16 or float32."
        )
    if not isinstance(rope_scaling, dict | RopeConfig | None):
        raise UserError(f"rope_scaling={rope_scaling!r} must be a dict, as in {CONFIG}, or a RopeConfig.")
    architecture = architecture_of(content)
    config = architecture.read(architecture.settings(content))
    if isinstance(rope_scaling, dict):
        changed = rope.override(config.rope, rope.fields_of(rope_scaling), longest(content))
        config = dataclasses.replace(config, rope=changed)
    if isinstance(rope_scaling, RopeConfig):
        kept = {name: getattr(config.rope, name) for name in ("pairing", "rotary_fraction")}
        kept["original_length"] = rope_scaling.original_length or config.rope.original_length
        config = dataclasses.replace(config, rope=dataclasses.replace(rope_scaling, **kept))
    if rope_scaling is not None:
        positions.check(config.rope, config.head_dim, "rope_scaling")
    return config


def longest(content: dict) -> int:
    """max_position_embeddings of a config.json, in tokens."""
    return architecture_of(content).settings(content)["max_position_embeddings"]


def dtype_of(content: dict) -> str | None:
    """The dtype in config.json, under either of its names, or None. Raises UserError for an unknown dtype."""
    name = content.get("dtype") or content.get("torch_dtype") or None
    optional(NAME).check("dtype", name)
    if name and name not in DTYPES:
        raise unknown_name(f"{CONFIG}: dtype", name, DTYPES)
    return name
