"""A long-context language model on a laptop: three context lengths in one run, on real text, in about three minutes.

Trains a small Llama-style decoder on the source code of Python's standard library, one byte per token, at 256, then
1024, then 4096 tokens of context; the RoPE base grows with the length. Most of the tokens are practice in looking back:
documents that hide a passkey and ask for it again and again, and repeated digits, from which so small a model learns
retrieval in a minute or so at 256 tokens; the longer stages carry it further.

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

    config.batch_tokens = 2048
    config.stages = (
        configs.stage(seq_len=256, steps=700),
        configs.stage(seq_len=1024, steps=350, rope=configs.rope(base=20_000.0)),
        configs.stage(seq_len=4096, steps=130, rope=configs.rope(base=40_000.0), batch_tokens=4096),
    )
    config.model.update(layers=3, embed=64, mlp=176, heads=4, key_heads=4, head_size=16, qk_norm=True, dtype="float32",
                        remat="none")
    config.data.update(passkey_share=0.5, copy_share=0.2)
    config.optim.update(learning_rate=1e-2, warmup_steps=20, schedule="wsd")
    config.checkpoint.every_steps = 200
    config.log.every_steps = 20
    config.eval.update(documents=8, samples=4, lengths=(256, 1024, 4096))

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
        stage.seq_len, stage.steps, stage.batch_tokens = seq_len, steps, 0
    config.model.update(layers=2, embed=64, mlp=176, heads=2, key_heads=1)
    config.optim.warmup_steps = 4
    config.checkpoint.every_steps = 5
    config.log.every_steps = 1
    config.eval.update(documents=2, depths=3, lengths=(256, 1024, 2048))
