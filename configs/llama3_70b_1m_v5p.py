"""Llama 3 70B at a million tokens on a v5p:4x4x4, 64 chips, by autodiff: layers' inputs move to host memory.

    python -m experiments.plan --target v5p:4x4x4 --config configs/llama3_70b_1m_v5p.py
    python -m experiments.train --config configs/llama3_70b_1m_v5p.py:smoke     # 2 steps of a tiny model, 8 CPU devices

The first command on 2026-11-22, jax 0.10.2, nothing run:
v5p:4x4x4: fits; device 25.6 of 95.7 GiB, host 48.0 of 104.3 GiB (compiled);
a step 213 s, MFU 76% (predicted).
"""

from experiments.settings import arguments, defaults, models


def get_config(arg: str = ""):
    args = arguments(arg, smoke=False)
    config = defaults()
    config.name = "llama3-70b-1m"
    models.fill(
        config,
        "llama3_70b",
        length=2**20,
        smoke=args.smoke,
        context=4 if args.smoke else 16,
        context_outer=2 if args.smoke else 4,
    )
    config.model.rope.theta = 5e7  # LWM's at this length
    config.model.remat = "offload_attention"
    config.memory.update(mlp_tiles=4, offload=("moments",))
    return config
