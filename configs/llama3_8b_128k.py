"""Llama 3 8B at 128K tokens on one node of 8 H100, by autodiff: nothing leaves the devices.

    python -m experiments.plan --target h100x8 --config configs/llama3_8b_128k.py
    python -m experiments.train --config configs/llama3_8b_128k.py --config.init_from=FOLDER     # from its weights
    python -m experiments.train --config configs/llama3_8b_128k.py:smoke        # 2 steps of a tiny model, 8 CPU devices

The first command on 2026-11-21, jax 0.10.2, nothing run:
h100x8: fits; device 29.1 of 72.0 GiB, host 0.0 of 221.2 GiB (compiled);
a step 5.47 s, MFU 45% (predicted).
"""

from experiments.settings import arguments, defaults, models


def get_config(arg: str = ""):
    args = arguments(arg, smoke=False)
    config = defaults()
    config.name = "llama3-8b-128k"
    models.fill(config, "llama3_8b", length=2**17, smoke=args.smoke, context=8)
    config.model.rope.theta = 8e6  # ProLong's, for rows of 64K and more
    config.model.remat = "attention"
    config.memory.mlp_tiles = 4
    return config
