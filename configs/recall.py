"""Context extension as an experiment: a tiny recall model, trained at 256 tokens and evaluated at up to 4096.

Eight needles, each a key and its value, lie among filler; then every key is asked for. Two layers (78,000 parameters)
learn this on two CPU cores, at 32 tokens first, where half of the tokens are questions and answers. Then these
parameters read longer rows by every position method, first unchanged and then after a short tuning:

    python -m experiments.extend --config configs/recall.py
    python -m experiments.extend --config configs/recall.py:seed=1 --workdir DIR
    python -m experiments.extend --config configs/recall.py:smoke           # all of it in seconds; learns nothing
    python -m experiments.extend --config configs/recall.py --config.extend.methods="('none', 'yarn', 'dca')"

Arguments: seed=N, steps=N (at 32 tokens; what is not rotary needs ten times as many), smoke.
"""

from experiments.settings import arguments, defaults, stage


def get_config(arg: str = ""):
    args = arguments(arg, seed=0, steps=300, smoke=False)
    config = defaults()
    config.name, config.seed = "recall", args.seed
    config.stages = (
        stage(seq_len=32, steps=args.steps, batch_tokens=2048),
        stage(seq_len=256, steps=300, batch_tokens=4096),
    )
    # without qkv_bias or qk_norm 500 steps at 32 tokens did not get far beyond guessing among the values that were seen
    config.model.update(
        vocab_size=64,
        layers=2,
        d_model=64,
        mlp_dim=96,
        heads=4,
        kv_heads=4,
        head_dim=16,
        qk_norm="rms",
        qkv_bias=True,
        embedding_std=1.0,
        dtype="float32",
        remat="none",
    )
    config.recall.update(needles=8, key_tokens=32, value_tokens=16, filler_tokens=16)
    config.optim.update(learning_rate=5e-3, warmup_steps=20, schedule="wsd")
    config.extend.update(tunings=("linear", "ntk", "yarn", "pose", "e2llm"), tune_steps=50, tune_learning_rate=1e-3)
    if args.smoke:
        config.name = "recall-smoke"
        config.stages = (stage(seq_len=32, steps=2, batch_tokens=256),)
        config.recall.needles = 4
        config.extend.update(
            lengths=(32, 64),
            rows=2,
            depths=2,
            tune_steps=2,
            tune_length=64,
            methods=("none", "yarn", "self_extend"),
            tunings=("ntk", "pose"),
        )
    return config
