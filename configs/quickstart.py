"""A long-context language model on a laptop: three context lengths in one run, on real text, in about three minutes.

Trains a small Llama-style decoder on the source code of Python's standard library, one byte per token, at 256, then
1024, then 4096 tokens of context; the tokens per step stay the same, and the RoPE base grows with the length. Some of
the tokens are generated: passkey tasks, and short pieces repeated, which are dense practice in looking back.

    python -m experiments.train --config configs/quickstart.py
    python -m experiments.train --config configs/quickstart.py:smoke          # the same in under a minute
    python -m experiments.train --config configs/quickstart.py:context=4      # over 4 simulated devices (ring)
    python -m experiments.train --config configs/quickstart.py --config.data.path=FOLDER  # on text of your own

Arguments: smoke (tiny model, short contexts, few steps), context=N (context shards, each a simulated CPU device).
"""
from experiments import config as configs


def get_config(arg: str = ""):
    args = configs.arguments(arg, smoke=False, context=1)
    config = configs.defaults()
    config.name = "quickstart-smoke" if args.smoke else "quickstart"

    config.batch_tokens = 4096
    config.stages = (
        configs.stage(seq_len=256, steps=300),
        configs.stage(seq_len=1024, steps=160, rope=configs.rope(base=20_000.0)),
        configs.stage(seq_len=4096, steps=80, rope=configs.rope(base=40_000.0)),
    )
    config.model.update(layers=3, embed=128, mlp=352, heads=4, key_heads=2, head_size=32, dtype="float32")
    config.data.update(passkey_share=0.1, copy_share=0.1)
    config.optim.update(learning_rate=6e-3, warmup_steps=20)
    config.checkpoint.every_steps = 50
    config.log.every_steps = 10
    config.eval.update(documents=8, samples=2, lengths=(256, 1024, 4096, 8192))

    if args.smoke:
        _shrink(config)
    if args.context > 1:
        config.name += f"-context{args.context}"
        config.mesh.context = config.mesh.simulate = args.context
        config.attention.strategy = "ring"
        config.attention.layout = "zigzag"
    return config


def _shrink(config):
    """The same run in miniature: every part of it takes place, in under a minute."""
    config.batch_tokens = 1024
    for stage, seq_len, steps in zip(config.stages, (256, 512, 1024), (8, 6, 6), strict=True):
        stage.seq_len, stage.steps = seq_len, steps
    config.model.update(layers=2, embed=64, mlp=176, heads=2, key_heads=1)
    config.optim.warmup_steps = 4
    config.checkpoint.every_steps = 5
    config.log.every_steps = 1
    config.eval.update(documents=2, depths=3, lengths=(256, 1024, 2048))
