"""A model's folder: config.json and what it means. Free of jax."""
import dataclasses
import pathlib

from longctx.config import ModelConfig, RopeConfig
from longctx.errors import UserError, unknown_name
from longctx.hf import files, rope
from longctx.hf.architectures import ARCHITECTURES, Architecture
from longctx.hf.settings import DTYPES

CONFIG = "config.json"
# the settings that say the RoPE, in both dialects
ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "rotary_emb_base", "rotary_pct",
        "partial_rotary_factor", "max_position_embeddings", "original_max_position_embeddings")


def model_config(path, rope_scaling: dict | RopeConfig | None = None) -> ModelConfig:
    """The ModelConfig of a Hugging Face folder; dtype as config.json says, param_dtype as the embedding is stored.

    rope_scaling: instead of the folder's, see api.load.

    Raises:
      UserError: for an architecture, a setting or a quantization that is not known, or a folder that is no model's.
    """
    folder = pathlib.Path(path)
    content = settings(folder)
    architecture = architecture_of(content)
    config = read(content, rope_scaling)
    name, stored = architecture.outside["embedding.table"].name, files.tensors(folder)
    if name not in stored:
        raise UserError(f"{folder} has no tensor {name}, which a {content['model_type']} must have.")
    param_dtype = stored[name].dtype.name
    return dataclasses.replace(config, param_dtype=param_dtype, dtype=dtype_of(content) or param_dtype)


def settings(folder: pathlib.Path) -> dict:
    """The content of config.json."""
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} has no {CONFIG}; it must be the folder of a Hugging Face model.")
    return files.read_json(folder / CONFIG)


def architecture_of(content: dict) -> Architecture:
    if content.get("model_type") not in ARCHITECTURES:
        raise unknown_name(f"{CONFIG}: model_type", content.get("model_type"), ARCHITECTURES)
    return ARCHITECTURES[content["model_type"]]


def read(content: dict, rope_scaling: dict | RopeConfig | None = None) -> ModelConfig:
    """The ModelConfig of a config.json, but for its dtypes.

    A RopeConfig keeps the file's pairing and rotary_share: the weights are made for these. Where its original_length
    is 0, the file's counts.
    """
    if quantization := content.get("quantization_config"):
        raise UserError(f"{CONFIG}: the weights are quantized ({quantization.get('quant_method', 'unknown')}), "
                        "which is not supported; save them in bfloat16, float16 or float32.")
    architecture = architecture_of(content)
    config = architecture.read(architecture.settings(content))
    if isinstance(rope_scaling, dict):
        changed = rope.override(config.rope, rope.fields_of(rope_scaling), longest(content))
        config = dataclasses.replace(config, rope=changed)
    if isinstance(rope_scaling, RopeConfig):
        kept = {name: getattr(config.rope, name) for name in ("pairing", "rotary_share")}
        kept["original_length"] = rope_scaling.original_length or config.rope.original_length
        config = dataclasses.replace(config, rope=dataclasses.replace(rope_scaling, **kept))
    return config


def longest(content: dict) -> int:
    """max_position_embeddings of a config.json, in tokens."""
    return architecture_of(content).settings(content)["max_position_embeddings"]


def dtype_of(content: dict) -> str | None:
    """What config.json says of the dtype, in either dialect."""
    name = content.get("dtype") or content.get("torch_dtype")
    if name is not None and name not in DTYPES:
        raise unknown_name(f"{CONFIG}: dtype", name, DTYPES)
    return name
