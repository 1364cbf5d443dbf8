"""The bounds of every number in the settings, whatever the rest of them is. Free of jax."""

import ctypes
import operator

from experiments.settings.environment import SIMULATED, count
from experiments.settings.tree import Settings
from longctx.config import Config
from longctx.errors import UserError

LARGEST = float.fromhex("0x1.fffffep127")  # of float32, in which a run computes with its settings
POSITIONS = 2**31  # so many positions there are: they are int32
AT_LEAST = {
    "seed": 0,
    "model.vocab_size": 1,
    "model.layers": 1,
    "model.d_model": 1,
    "model.mlp_dim": 1,
    "model.heads": 1,
    "model.kv_heads": 1,
    "model.head_dim": 4,
    "model.logit_soft_cap": 0,
    "model.attention_soft_cap": 0,
    "model.attention_scale": 0,
    "model.embedding_scale": 0,
    "model.experts": 0,
    "model.experts_per_token": 0,
    "model.expert_mlp_dim": 0,
    "model.lora.rank": 0,
    "mesh.data": 1,
    "mesh.fsdp": 1,
    "mesh.context_outer": 1,
    "mesh.context": 1,
    "mesh.tensor": 1,
    "mesh.simulate": 0,
    "memory.mlp_tiles": 1,
    "memory.loss_tiles": 0,
    "memory.head_groups": 1,
    "memory.chunk_tokens": 0,
    "memory.residual_every": 1,
    "optim.learning_rate": 0,
    "optim.warmup_steps": 0,
    "optim.final_fraction": 0,
    "optim.b1": 0,
    "optim.b2": 0,
    "optim.weight_decay": 0,
    "optim.clip_norm": 0,
    "optim.max_bad_steps": 1,
    "optim.ema": 0,
    "checkpoint.every_steps": 1,
    "checkpoint.every_minutes": 0,
    "checkpoint.keep": 1,
    "checkpoint.keep_every": 0,
    "log.every_steps": 1,
    "eval.documents": 1,
    "eval.depths": 1,
    "eval.samples": 1,
    "eval.every_steps": 0,
    "eval.stride": 0,
    "eval.document_tokens": 0,
    "eval.key_context": 1,
    "eval.key_stride": 1,
    "eval.segments": 2,
    "model.embedding_std": 0,
}
EXTEND_AT_LEAST = {
    "extend.rows": 1,
    "extend.depths": 1,
    "extend.tune_length": 0,
    "extend.tune_steps": 1,
    "extend.tune_learning_rate": 0,
}
ABOVE = {"model.norm_eps": 0, "optim.eps": 0, "model.lora.alpha": 0}
BELOW = {"seed": 2**63, "optim.b1": 1, "optim.b2": 1, "optim.ema": 1}


def check(config: Config) -> None:
    """Raises UserError for the first number that is out of its bounds."""
    for field, least in AT_LEAST.items():
        _require(config, field, operator.ge, least, "at least")
    for field, bound in ABOVE.items():
        _require(config, field, operator.gt, bound, "above")
    for field, bound in BELOW.items():
        _require(config, field, operator.lt, bound, "below")
    optim = config.optim
    for i, stage in enumerate(config.stages):
        if stage.lr_scale < 0:
            raise UserError(f"stages[{i}].lr_scale={stage.lr_scale} must be at least 0; 1.0 changes nothing.")
        if optim.learning_rate * max(1.0, optim.final_fraction) * stage.lr_scale > LARGEST:
            raise UserError(
                f"optim.learning_rate={optim.learning_rate} times optim.final_fraction="
                f"{optim.final_fraction} and stages[{i}].lr_scale={stage.lr_scale} must be at most 3.4e38, "
                "the largest float32."
            )
    _check_most(config)
    if config.name in ("", ".", "..") or "/" in config.name:
        raise UserError(f"name={config.name!r} must be a folder name without '/', such as 'run'.")


def check_extend(config: Settings) -> None:
    """Raises UserError for the first number in `extend` that is out of its bounds."""
    for field, least in EXTEND_AT_LEAST.items():
        _require(config, field, operator.ge, least, "at least")
    longest = max(config.extend.lengths, default=0)
    _check_lengths({"extend.tune_length": config.extend.tune_length, "extend.lengths": longest})


def _check_most(config: Config) -> None:
    """Raises UserError for a length that no row can have, and for more devices than a process can simulate."""
    lengths = {f"stages[{i}].seq_len": stage.seq_len for i, stage in enumerate(config.stages)}
    lengths |= {f"stages[{i}].augment_length": stage.augment_length for i, stage in enumerate(config.stages)}
    lengths |= {"eval.lengths": max(config.eval.lengths, default=0)}
    _check_lengths(lengths)
    most, simulate = SIMULATED * count(), config.mesh.simulate
    if simulate > most:
        raise UserError(
            f"mesh.simulate={simulate} is more than the {SIMULATED} devices that jax can "
            f"simulate in a process; {most} works."
        )


def _check_lengths(lengths: dict[str, int]) -> None:
    """Raises UserError for a setting whose length no row can have."""
    for field, length in lengths.items():
        if length >= POSITIONS:
            raise UserError(f"{field} asks for {length} tokens in a row, and positions are below 2**31={POSITIONS}.")


def _require(config: Config, field: str, holds, bound: float, words: str) -> None:
    """Raises UserError unless holds(value of the field, bound), as a float32 too; words: such as "at least"."""
    value = operator.attrgetter(field)(config)
    if not holds(value, bound):
        raise UserError(f"{field}={value} must be {words} {bound}.")
    if isinstance(value, float) and not holds(rounded := ctypes.c_float(value).value, bound):
        raise UserError(f"{field}={value} must be {words} {bound} as a float32 too, and it is rounded to {rounded}.")
