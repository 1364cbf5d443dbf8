"""The longest context at which exact training of Llama 3 8B fits, by hardware: device memory hardly grows with it.

Every layer is streamed one chunk of the row at a time, with the residual stream in host memory, 8 KiB per token for the
input of every k-th layer. The memory of a step on each device, planned without any, and a run of a miniature:

    python -m experiments.plan --target h100x8 --config configs/longest.py:case=h100x8
    python -m experiments.train --config configs/longest.py:case=h100x8,smoke       # 2 steps on 8 simulated devices

Arguments: case, a name in CASES; smoke.
"""

import dataclasses

from experiments.settings import arguments, defaults, models, stage
from longctx.errors import unknown_name

M = 2**20


@dataclasses.dataclass(frozen=True)
class Case:
    """The settings that depend on the hardware.

    Attributes:
      target: of experiments.plan.
      tokens, chunk: of a row, and of a chunk of it.
      kept_every: layers, of which the input of one is kept.
      offload: names of memory.offload beside "residual" and "dy".
    """

    target: str
    tokens: int
    chunk: int
    kept_every: int
    context: int = 1
    context_outer: int = 1
    offload: tuple[str, ...] = ("moments",)
    model: str = "llama3_8b"


CASES = {
    "h100x1": Case("h100x1", 9 * M, 2**15, 2, offload=("moments", "params", "kv")),  # all of a node's memory
    "h100x1_eighth": Case("h100x1", M, 2**15, 4, offload=("moments", "params", "kv")),  # 221 GiB, an eighth of it
    "h100x8": Case("h100x8", 10 * M, 2**16, 2, context=8),
    "h100x32": Case("h100x32", 32 * M, 2**17, 2, context=8, context_outer=4),
    "a800x8": Case("a800x8", 5 * M, 2**16, 1, context=8, offload=("moments", "kv"), model="llama_7b"),
    "v5p": Case("v5p:2x2x1", 3 * M, 2**15, 4, context=4),
    "v5e": Case("v5e:4x4", 5 * M, 2**15, 4, context=16),
}


def get_config(arg: str = ""):
    args = arguments(arg, case="h100x8", smoke=False)
    if args.case not in CASES:
        raise unknown_name("case", args.case, CASES)
    case = CASES[args.case]
    shards = case.context * case.context_outer
    tokens, chunk, steps = (256 * shards, 64 * shards, 2) if args.smoke else (case.tokens, case.chunk, 100)

    config = defaults()
    config.name = f"longest-{args.case}"
    config.batch_tokens = tokens
    config.stages = (stage(seq_len=tokens, steps=steps),)
    config.model.update(**models.MODELS[case.model] | (models.SMOKE | dict(layers=4) if args.smoke else {}))
    config.model.rope.theta = 500_000.0
    config.mesh.update(context=case.context, context_outer=case.context_outer)
    config.attention.strategy = "usp" if case.context_outer > 1 else "ulysses"
    config.attention.layout = f"striped({chunk // shards})"  # a chunk is one piece of the row
    config.memory.update(
        backward="streamed",
        chunk_tokens=chunk,
        residual_every=case.kept_every,
        clip_mode="delayed",
        offload=("residual", "dy", *case.offload),
    )
    if args.smoke:
        config.mesh.simulate = shards
        config.eval.tasks = ()
    return config
