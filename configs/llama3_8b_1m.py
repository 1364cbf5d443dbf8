"""Llama 3 8B at a million tokens, by autodiff: layers' inputs and attention's results move to host memory.

    python -m experiments.plan --target h100x8 --config configs/llama3_8b_1m.py
    python -m experiments.plan --target v5p:4x4x4 --config configs/llama3_8b_1m.py:context_outer=4,context=16
    python -m experiments.train --config configs/llama3_8b_1m.py:smoke          # 2 steps of a tiny model, 8 CPU devices

Arguments: context=N and context_outer=N, the two axes of context shards; smoke. (Over 64 chips as a single axis the TPU
compiler has no all-gather, and weights would be gathered by all-reduces.)

Both commands on 2026-11-21, jax 0.10.2, nothing run:
h100x8: fits; device 25.3 of 72.0 GiB, host 67.2 of 221.2 GiB (compiled);
a step 268 s, MFU 43% (predicted);
v5p:4x4x4: fits; device 5.3 of 95.7 GiB, host 9.1 of 104.3 GiB (compiled);
a step 41.1 s, MFU 76% (predicted).
"""

from experiments.settings import arguments, defaults, models


def get_config(arg: str = ""):
    args = arguments(arg, context_outer=1, context=8, smoke=False)
    config = defaults()
    config.name = "llama3-8b-1m"
    models.fill(
        config, "llama3_8b", length=2**20, smoke=args.smoke, context=args.context, context_outer=args.context_outer
    )
    config.model.rope.theta = 5e7  # LWM's at this length
    config.model.remat = "offload_attention"
    config.memory.update(mlp_tiles=16, head_groups=1 if args.smoke else 8, offload=("grads",))
    return config
