"""Continued pretraining of a model of Llama's family on rows of 32K tokens; by default YaRN stretches its RoPE there.

    python -m experiments.train --config configs/recipes/extend_llama_32k.py:fsdp=8 \\
        --config.init_from=FOLDER --config.data.path=TEXT                           # all weights, on 8 H100
    python -m experiments.train --config configs/recipes/extend_llama_32k.py:lora=16 \\
        --config.init_from=FOLDER --config.data.path=TEXT                           # adapters, on one
    python -m experiments.train --config configs/recipes/extend_llama_32k.py:smoke  # 2 steps of a tiny model

Arguments: model, a name of experiments.settings.models (Llama 3 8B), of which FOLDER must have the sizes; original, the
tokens that it was trained at (8192); rope=yarn, or rope=theta, which rotates more slowly instead, by as much as
NTK-aware scaling would; lora=RANK, adapters of all matrices instead of all weights; fsdp=N rows a step, over as many
devices each as context=N; steps; smoke.

    python -m experiments.plan --target h100x8 --config configs/recipes/extend_llama_32k.py:fsdp=8
    python -m experiments.plan --target h100x1 --config configs/recipes/extend_llama_32k.py:lora=16
    python -m experiments.plan --target v5e:4x4 --config configs/recipes/extend_llama_32k.py:fsdp=2,context=8

All three on 2026-11-30, jax 0.10.2, nothing run:
h100x8: fits; device 37.6 of 72.0 GiB, host 0.0 of 221.2 GiB (compiled);
a step of 8 rows 4.68 s, MFU 50% (predicted);
h100x1: fits; device 36.1 of 72.0 GiB, host 0.0 of 1769.5 GiB (compiled);
a step of 1 row 3.98 s, MFU 47% (predicted);
v5e:4x4: fits; device 13.6 of 15.8 GiB, host 0.0 of 44.7 GiB (compiled);
a step of 2 rows 2.24 s, MFU 66% (predicted).
"""

from experiments.settings import arguments, defaults, models
from longctx.errors import unknown_name

LENGTH = 2**15
ROPES = {"yarn", "theta"}


def get_config(arg: str = ""):
    args = arguments(
        arg, model="llama3_8b", original=8192, rope="yarn", lora=0, fsdp=1, context=1, steps=1000, smoke=False
    )
    if args.rope not in ROPES:
        raise unknown_name("rope", args.rope, ROPES)
    config = defaults()
    config.name = "extend-32k"
    models.fill_for_tuning(config, args, LENGTH)
    config.model.rope.update(theta=5e5, original_length=args.original)
    factor = LENGTH / args.original
    if args.rope == "yarn":
        config.model.rope.update(scaling="yarn", factor=factor)
    else:
        H = config.model.head_dim
        config.model.rope.theta *= factor ** (H / (H - 2))
    config.memory.mlp_tiles = 4
    return config
