"""Qwen 2.5 7B at a million tokens on one node of 8 A800, by autodiff.

    python -m experiments.plan --target a800x8 --config configs/qwen_7b_1m_a800x8.py
    python -m experiments.train --config configs/qwen_7b_1m_a800x8.py:smoke     # 2 steps of a tiny model, 8 CPU devices

The first command on 2026-11-21, jax 0.10.2, nothing run:
a800x8: fits; device 26.6 of 72.0 GiB, host 52.0 of 221.2 GiB (compiled);
a step 523 s, MFU 54% (predicted).
"""

from experiments.settings import arguments, defaults, models


def get_config(arg: str = ""):
    args = arguments(arg, smoke=False)
    config = defaults()
    config.name = "qwen-7b-1m"
    models.fill(config, "qwen2.5_7b", length=2**20, smoke=args.smoke, context=8)
    config.model.rope.theta = 1e7  # Qwen2.5-1M's last stage
    config.model.remat = "offload_attention"
    config.memory.update(mlp_tiles=16, head_groups=4, offload=("grads",))
    return config
