"""Continued pretraining of Llama 2 on rows of 16K or 32K tokens as Llama 2 Long's: RoPE's base becomes 500,000.

    python -m experiments.train --config configs/recipes/llama2_long.py:data=FOLDER,length=16384,fsdp=8 \\
        --config.init_from=meta-llama/Llama-2-7b-hf
    python -m experiments.train --config configs/recipes/llama2_long.py:data=FOLDER,late=0.8,budget=0.01
    python -m experiments.train --config configs/recipes/llama2_long.py:smoke   # 2 steps of a tiny model

FOLDER has text of any kind, as data.path, which it sets.

Published (arXiv 2309.16039): the base, 400B tokens, rows of 32K for 7B and 13B and of 16K for 34B and 70B. late=0.8 is
its comparison of curricula: 80% of the tokens in rows of 4K, then the long ones, at nearly the same loss for 60% of the
operations; 0.2 and 0.4 are there, too. From memory: a learning rate of 2e-5, 2000 steps of warm-up, 4M tokens a step.
Chosen here: rows of 4K have the base of Llama 2, 10,000. The published mixture of sources is not known in numbers;
--config.data.mix takes your own.

Arguments: model, a name of experiments.settings.models (Llama 7B); length (32K); late, the share of the tokens in rows
of 4K; data; budget, the share of the steps that is taken; fsdp=N rows at a time, over as many devices each as
context=N; smoke.
"""

from experiments.settings import arguments, defaults, recipes
from longctx.errors import UserError

STEPS = 95_367  # 400B tokens


def get_config(arg: str = ""):
    args = arguments(arg, model="llama_7b", length=2**15, late=0.0, **recipes.ARGUMENTS)
    if not 0 <= args.late < 1:
        raise UserError(f"late={args.late} must be a share of the tokens, at least 0 and below 1; 0.8 works.")
    config = defaults()
    config.name = "llama2-long"
    short = round(args.late * STEPS)
    phases = [recipes.phase(2**12, short, 2**22, 1e4)] if short else []
    recipes.fill(config, args, [*phases, recipes.phase(args.length, STEPS - short, 2**22, 5e5)], warmup=2000)
    config.optim.learning_rate = 2e-5
    return config
