"""What can be known to be wrong with a run before a device is touched: one UserError for the most basic problem.

First what the settings alone say, then the names that jax modules know, then the data, then the workdir.
"""

import ctypes
import dataclasses
import math
import operator

from experiments.settings import config as configs
from experiments.settings.environment import SIMULATED, count
from longctx import cuts, layouts
from longctx.config import DTYPES, Config
from longctx.data import curriculum
from longctx.errors import UserError, unknown_name
from longctx.positions import api as positions
from longctx.positions import scalings

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
    "checkpoint.every_steps": 1,
    "checkpoint.every_minutes": 0,
    "checkpoint.keep": 1,
    "log.every_steps": 1,
    "eval.documents": 1,
    "eval.depths": 1,
    "eval.samples": 1,
    "model.embedding_std": 0,
    "extend.rows": 1,
    "extend.depths": 1,
    "extend.tune_length": 0,
    "extend.tune_steps": 1,
    "extend.tune_learning_rate": 0,
}
ABOVE = {"model.norm_eps": 0, "optim.eps": 0}
FOR_BACKWARD = {
    "loss_tiles": "autodiff",
    "head_groups": "autodiff",
    "chunk_tokens": "streamed",
    "residual_every": "streamed",
    "keep_attention": "streamed",
    "clip_mode": "streamed",
}  # settings of memory that the others do not have
BELOW = {"seed": 2**63, "optim.b1": 1, "optim.b2": 1}
POSITIONS = 2**31  # there are so many: they are int32


def check_settings(config: Config) -> tuple[curriculum.Stage, ...]:
    """The same for the settings alone, whatever the data; returns the stages."""
    _check_numbers(config)
    _check_model(config)
    _check_positions(config)
    stages = curriculum.plan(config)
    _check_lengths(config)
    _check_names(config)
    _check_memory(config)
    _check_augmentations(config)
    return stages


def _check_numbers(config: Config) -> None:
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
        if optim.learning_rate * max(1.0, optim.final_fraction) * stage.lr_scale > configs.LARGEST:
            raise UserError(
                f"optim.learning_rate={optim.learning_rate} times optim.final_fraction="
                f"{optim.final_fraction} and stages[{i}].lr_scale={stage.lr_scale} must be at most 3.4e38, "
                "the largest float32."
            )
    if min(config.eval.lengths, default=1) < 1:
        raise UserError(f"eval.lengths={config.eval.lengths} must all be at least 1.")
    _check_most(config)
    if config.name in ("", ".", "..") or "/" in config.name:
        raise UserError(f"name={config.name!r} must be a folder name without '/', such as 'run'.")


def _check_most(config: Config) -> None:
    """Lengths that no row can have, and devices that no process can."""
    lengths = {f"stages[{i}].seq_len": stage.seq_len for i, stage in enumerate(config.stages)}
    lengths |= {f"stages[{i}].augment_length": stage.augment_length for i, stage in enumerate(config.stages)}
    lengths |= {
        "eval.lengths": max(config.eval.lengths, default=0),
        "extend.tune_length": config.extend.tune_length,
        "extend.lengths": max(config.extend.lengths, default=0),
    }
    for field, length in lengths.items():
        if length >= POSITIONS:
            raise UserError(f"{field} asks for {length} tokens in a row, and positions are below 2**31={POSITIONS}.")
    most, simulate = SIMULATED * count(), config.mesh.simulate
    if simulate > most:
        raise UserError(
            f"mesh.simulate={simulate} is more than the {SIMULATED} devices that jax can "
            f"simulate in a process; {most} works."
        )


def _require(config: Config, field: str, holds, bound: float, words: str) -> None:
    value = operator.attrgetter(field)(config)
    if not holds(value, bound):
        raise UserError(f"{field}={value} must be {words} {bound}.")
    if isinstance(value, float) and not holds(rounded := ctypes.c_float(value).value, bound):
        raise UserError(f"{field}={value} must be {words} {bound} as a float32 too, and it is rounded to {rounded}.")


def _check_model(config: Config) -> None:
    """Sizes that have to divide each other, on the mesh too."""
    mesh = config.mesh
    cuts.check(config.model, mesh.axes)
    cuts.check_groups("memory.head_groups", config.memory.head_groups, config.model.kv_heads, mesh.tensor)
    if 0 < mesh.simulate < mesh.devices:
        raise UserError(f"mesh.simulate={mesh.simulate} is too few for the mesh ({mesh}); {mesh.devices} works.")
    for field in ("model.dtype", "model.param_dtype", "attention.kv_grads_dtype"):
        if (name := operator.attrgetter(field)(config)) not in DTYPES:
            raise unknown_name(field, name, DTYPES)


def _check_positions(config: Config) -> None:
    positions.check(config.model.rope, config.model.head_dim)
    if not config.model.pattern:
        raise UserError("model.pattern=() must hold a kind of layer; (layer(),) is the model's own.")
    for i, kind in enumerate(config.model.pattern):
        if kind.rope is not None:
            positions.check(kind.rope, config.model.head_dim, f"model.pattern[{i}].rope")
            if scalings.of(kind.rope).learned:
                raise UserError(
                    f"model.pattern[{i}].rope.scaling={kind.rope.scaling!r}: its weights go with model.rope alone."
                )
    for i, stage in enumerate(config.stages):
        if stage.rope is not None:
            positions.check(stage.rope, config.model.head_dim, f"stages[{i}].rope")
            learned = lambda rope: scalings.of(rope).learned and (rope.scaling, rope.rotary_fraction, rope.clex_width)
            if learned(stage.rope) != learned(config.model.rope):
                raise UserError(
                    f"stages[{i}].rope.scaling={stage.rope.scaling!r} needs other weights than model.rope: "
                    "'clex' in both, with one rotary_fraction and one clex_width, or in neither."
                )


def _check_augmentations(config: Config) -> None:
    for i, stage in enumerate(config.stages):
        rope = stage.rope or config.model.rope
        if stage.augment != "none" and stage.augment_length < stage.seq_len:
            raise UserError(
                f"stages[{i}].augment_length={stage.augment_length} must be the length to train for, "
                f"at least stages[{i}].seq_len={stage.seq_len}, for augment={stage.augment!r}."
            )
        if stage.augment == "clex" and (rope.scaling, rope.original_length) != ("clex", stage.seq_len):
            raise UserError(
                f"stages[{i}].augment='clex' needs rope.scaling='clex' and rope.original_length="
                f"stages[{i}].seq_len={stage.seq_len}, and they are {rope.scaling!r} and "
                f"{rope.original_length}."
            )


def _check_lengths(config: Config) -> None:
    """Every stage's length must divide for the layout on the mesh. (The evaluation pads its own.)"""
    layouts.parse(config.attention.layout)
    for i, stage in enumerate(config.stages):
        try:
            layouts.check(config.attention.layout, stage.seq_len, config.mesh.context_shards)
        except UserError as error:
            raise UserError(f"stages[{i}].{error}") from error


def _check_names(config: Config) -> None:
    """Names against the dicts that hold them. Imports jax, for most of these hold functions of it."""
    from longctx import optim
    from longctx.context_parallel import api as context_parallel
    from longctx.evals.api import EVALS
    from longctx.memory import host
    from longctx.model import names as model_names
    from longctx.positions import view
    from longctx.positions.augment import AUGMENTATIONS
    from longctx.streaming.step import CLIPS
    from longctx.train_step import BACKWARDS
    from pallas_kernels.attention.api import IMPLEMENTATIONS

    names = [
        ("attention.kernel", config.attention.kernel, {"auto", *IMPLEMENTATIONS}),
        ("attention.strategy", config.attention.strategy, context_parallel.STRATEGIES),
        ("memory.backward", config.memory.backward, BACKWARDS),
        ("memory.clip_mode", config.memory.clip_mode, CLIPS),
        *((f"memory.offload[{i}]", name, host.NAMES) for i, name in enumerate(config.memory.offload)),
        ("optim.schedule", config.optim.schedule, optim.SCHEDULES),
        *((f"stages[{i}].lr", stage.lr, optim.LR_TREATMENTS) for i, stage in enumerate(config.stages)),
        *((f"stages[{i}].augment", stage.augment, AUGMENTATIONS) for i, stage in enumerate(config.stages)),
        *((f"eval.tasks[{i}]", task, EVALS) for i, task in enumerate(config.eval.tasks)),
    ]
    for field, name, known in names:
        if name not in known:
            raise unknown_name(field, name, known)
    model_names.check(config.model, config.mesh.axes)
    kinds = {"model": config.model, **{f"model.pattern[{i}]": kind for i, kind in enumerate(config.model.kinds)}}
    for field, kind in kinds.items():
        method, mask, _ = view.resolve(kind, field)
        for part in method.parts():
            context_parallel.check(context_parallel.plan_of(config), mask & part.mask)
    view.learned_numbers(config.model.kinds)


def _check_memory(config: Config) -> None:
    """Settings of one backward only, sizes that divide, and what the streamed one asks of patterns and strategies."""
    from longctx.context_parallel import api as context_parallel
    from longctx.streaming.attention import plan_of_chunks
    from pallas_kernels import masks

    memory, shards, kinds = config.memory, config.mesh.context_shards, len(config.model.kinds)
    for field in dataclasses.fields(memory):
        value, wanted = getattr(memory, field.name), FOR_BACKWARD.get(field.name, memory.backward)
        if value != field.default and memory.backward != wanted:
            raise UserError(
                f"memory.{field.name}={value!r} is for memory.backward={wanted!r}, and it is {memory.backward!r}."
            )
    if memory.backward != "streamed":
        _check_offload(config)
        return
    length = math.gcd(*(stage.seq_len for stage in config.stages))
    if memory.chunk_tokens < 1 or length % memory.chunk_tokens or memory.chunk_tokens % shards:
        works = max(size for size in range(shards, length + 1, shards) if length % size == 0 and size <= 4096 * shards)
        raise UserError(
            f"memory.chunk_tokens={memory.chunk_tokens} must divide the length of every stage, and be a multiple of "
            f"the {shards} context shards; {works} works."
        )
    if kinds % memory.residual_every and memory.residual_every % kinds:
        raise UserError(
            f"memory.residual_every={memory.residual_every} must divide the {kinds} kinds of layers of "
            f"model.pattern, or be a multiple of them; 1 and {kinds} work."
        )
    for kind in config.model.kinds:
        try:
            context_parallel.check(plan_of_chunks(config), masks.parse(kind.mask))
        except UserError as error:
            raise UserError(f"memory.backward='streamed': {error}") from error


def _check_offload(config: Config) -> None:
    """What the hosts can have of a step by autodiff."""
    from longctx.memory import host

    layers, kinds, offload = config.model.layers, len(config.model.kinds), set(config.memory.offload)
    if other := offload - set(host.OF_WEIGHTS):
        raise UserError(
            f"memory.offload names {min(other)!r}, which is for memory.backward='streamed'; 'autodiff' "
            f"has {', '.join(map(repr, host.OF_WEIGHTS))}, and model.remat='offload_layer', "
            "'offload_attention' or 'tokens(0, 0.25)'."
        )
    if "params" in offload and config.model.remat == "none":
        raise UserError(
            "model.remat='none' keeps all weights on the device, and memory.offload names 'params'; 'layer' works."
        )
    if layers % kinds and (whole := offload - {"moments"}):
        raise UserError(
            f"memory.offload names {min(whole)!r}, for which model.layers={layers} must be a multiple of "
            f"the {kinds} kinds of layers of model.pattern; {-(-layers // kinds) * kinds} works."
        )
