"""Llama 3 8B at ten million tokens on one node of 8 H100: exact training, streamed one chunk of the row at a time.

    python -m experiments.plan --target h100x8 --config configs/llama3_8b_10m_h100x8.py
    python -m experiments.train --config configs/llama3_8b_10m_h100x8.py:smoke  # 2 steps of a tiny model, 8 CPU devices

The first command on 2026-11-21, jax 0.10.2, nothing run:
h100x8: fits; device 31.2 of 72.0 GiB, host 206.7 of 221.2 GiB (compiled);
a step 3.32e+04 s, MFU 33% (predicted).
"""

from experiments.settings import arguments, defaults, models


def get_config(arg: str = ""):
    args = arguments(arg, smoke=False)
    config = defaults()
    config.name = "llama3-8b-10m"
    models.fill(config, "llama3_8b", length=10 * 2**20, smoke=args.smoke, context=8)
    chunk = 2**16 if not args.smoke else 512
    config.model.rope.theta = 5e8
    config.attention.update(strategy="ulysses", layout=f"striped({chunk // 8})")  # a chunk is a piece of the row
    config.memory.update(
        backward="streamed",
        chunk_tokens=chunk,
        residual_every=2,
        keep_attention=True,
        clip_mode="delayed",
        offload=("residual", "dy", "attention", "moments"),
    )
    return config
