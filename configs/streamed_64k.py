"""64K tokens of context on a laptop: one row of 65,536 tokens a step, streamed through the model 4096 at a time.

The streamed backward keeps one number per token, layer and channel (the residual stream), and everything else for one
chunk of tokens in one layer only; see longctx/streaming. A step took 130 s on two CPU cores that had other work too.

    python -m experiments.train --config configs/streamed_64k.py
    python -m experiments.train --config configs/streamed_64k.py:smoke        # at 2048 tokens, in a minute
    python -m experiments.train --config configs/streamed_64k.py:context=4    # over 4 simulated devices (ring)
    python -m experiments.train --config configs/streamed_64k.py --config.memory.backward=autodiff \\
        --config.memory.chunk_tokens=0                                   # gives equal losses, with more memory

Arguments: smoke, context=N (context shards, each a simulated CPU device).
"""

from experiments.settings import arguments, defaults, stage


def get_config(arg: str = ""):
    args = arguments(arg, smoke=False, context=1)
    config = defaults()
    config.name = "streamed-64k-smoke" if args.smoke else "streamed-64k"

    length, chunk, steps = (2048, 512, 6) if args.smoke else (65_536, 4096, 20)
    config.batch_tokens = length
    config.stages = (stage(seq_len=length, steps=steps),)
    config.memory.update(backward="streamed", chunk_tokens=chunk)
    config.model.update(
        layers=4, d_model=128, mlp_dim=352, heads=2, kv_heads=1, head_dim=32, qk_norm="rms", dtype="float32"
    )
    config.model.rope.theta = 500_000.0
    config.optim.update(learning_rate=3e-3, warmup_steps=3)
    config.checkpoint.every_steps = 2 if args.smoke else 5
    config.log.every_steps = 1
    config.eval.update(tasks=("by_position",), documents=1 if args.smoke else 4, lengths=(length // 4, length))

    if args.context > 1:
        config.name += f"-context{args.context}"
        config.mesh.context = config.mesh.simulate = args.context
        config.attention.layout = f"striped({chunk // args.context})"  # a chunk is one piece of the row
    return config
