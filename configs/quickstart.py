"""A long-context language model on a laptop: three context lengths in one run, on real text, in about three minutes.

Trains a small Llama-style decoder on the source code of Python's standard library, one byte per token, at 256, then
1024, then 4096 tokens of context; YaRN stretches RoPE for each new length, so that what was learnt at 256 tokens works
there almost at once. Most of the tokens are practice in looking back: documents that hide a passkey and ask for it
again and again, and repeated digits. The first layer sees four tokens only: it tells the others what stands before each
token, which is half of an induction head, and so small a model learns retrieval in a minute, with every seed tried.

    python -m experiments.train --config configs/quickstart.py
    python -m experiments.train --config configs/quickstart.py:smoke          # a small one, in under a minute
    python -m experiments.train --config configs/quickstart.py:context=4      # over 4 simulated devices (ring)
    python -m experiments.train --config configs/quickstart.py --config.data.path=FOLDER  # on text of your own

Arguments: smoke (tiny model, short contexts, few steps), context=N (context shards, each a simulated CPU device).
"""

from experiments.settings import arguments, defaults, layer, rope, stage


def get_config(arg: str = ""):
    args = arguments(arg, smoke=False, context=1)
    config = defaults()
    config.name = "quickstart-smoke" if args.smoke else "quickstart"

    lengths, steps = ((256, 512, 1024), (8, 6, 6)) if args.smoke else ((256, 1024, 4096), (700, 350, 130))
    config.batch_tokens = 1024 if args.smoke else 2048
    config.stages = tuple(_stage(config, *each, original=lengths[0]) for each in zip(lengths, steps, strict=True))
    config.model.update(
        layers=3,
        d_model=64,
        mlp_dim=176,
        heads=4,
        kv_heads=4,
        head_dim=16,
        qk_norm="rms",
        dtype="float32",
        remat="none",
        pattern=(layer(mask="causal & window(4)"), layer(), layer()),
    )
    config.data.generated = ("passkey(0.5)", "copying(0.2)")
    config.optim.update(learning_rate=5e-3, warmup_steps=20, schedule="wsd")
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


def _stage(config, length, steps, original):
    """A stage of `steps` steps at a length, with RoPE stretched from the `original` one and at least one row a step."""
    batch_tokens = length if length > config.batch_tokens else 0
    stretched = rope(scaling="yarn", factor=length / original, original_length=original)
    return stage(seq_len=length, steps=steps, rope=stretched, batch_tokens=batch_tokens)


def _shrink(config):
    """Makes the run a miniature in which every part still takes place, in under a minute."""
    config.model.update(layers=2, heads=2, kv_heads=1)
    config.optim.warmup_steps = 4
    config.checkpoint.every_steps = 5
    config.log.every_steps = 1
    config.eval.update(documents=2, depths=3, lengths=(256, 1024, 2048))
