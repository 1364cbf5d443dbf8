"""Continued pretraining to 256K tokens as Qwen2.5-1M's: 4K, 32K, 64K, 128K, 256K, three quarters of long documents.

    python -m experiments.train --config configs/recipes/qwen2_5_1m.py:data=FOLDER,first=65536,fsdp=4,context=8 \\
        --config.init_from=Qwen/Qwen2.5-7B                                      # 32 devices; the model has read 32K
    python -m experiments.train --config configs/recipes/qwen2_5_1m.py:data=FOLDER,budget=0.1
    python -m experiments.train --config configs/recipes/qwen2_5_1m.py:smoke    # 2 steps of a tiny model

FOLDER/long has documents of up to 256K tokens and more, FOLDER/short the others; three quarters of the tokens are of
the first ones, which is how "75% at the current maximum length" is understood here. Without data=FOLDER the text is
data.path, unmixed.

Published (arXiv 2501.15383): lengths, the quarter of short ones, and bases of RoPE from 10,000 to 10,000,000. Which
stage has which of 1e6, 5e6 and 1e7 is from memory. Not published, chosen here: 4M tokens a step, 1000 steps a stage, a
learning rate of 1e-5. Left out: the synthetic tasks that are mixed in (data.generated has passkeys and copying), and
the fine-tuning behind it. The published model reads four times as much by dual chunk attention:
model.position="dca(...)".

Arguments: model, a name of experiments.settings.models (Qwen2.5 7B); first, the tokens of the first stage that is
taken; data; budget, the share of the steps that is taken; fsdp=N rows at a time, over as many devices each as
context=N; smoke.
"""

from experiments.settings import arguments, defaults, recipes
from longctx.errors import UserError

THETAS = {2**12: 1e4, 2**15: 1e6, 2**16: 1e6, 2**17: 5e6, 2**18: 1e7}


def get_config(arg: str = ""):
    args = arguments(arg, model="qwen2.5_7b", first=2**12, **recipes.ARGUMENTS)
    if args.first not in THETAS:
        raise UserError(f"first={args.first} must be the length of a stage: {', '.join(map(str, THETAS))}.")
    config = defaults()
    config.name = "qwen2.5-1m"
    phases = [recipes.phase(length, 1000, 2**22, theta) for length, theta in THETAS.items() if length >= args.first]
    sources = [dict(name="long", path="long", share=0.75), dict(name="short", path="short", share=0.25)]
    recipes.fill(config, args, phases, sources, warmup=100)
    config.optim.learning_rate = 1e-5
    return config
