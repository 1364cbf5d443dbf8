"""Continued pretraining of Llama 2 7B to a million tokens as Large World Models' text: 32K, 128K, 256K, 512K, 1M.

    python -m experiments.train --config configs/recipes/lwm.py:data=BOOKS,context=64 \\
        --config.init_from=meta-llama/Llama-2-7b-hf                             # 64 devices
    python -m experiments.train --config configs/recipes/lwm.py:data=BOOKS,context=8,budget=0.01
    python -m experiments.train --config configs/recipes/lwm.py:smoke           # 2 steps of a tiny model

BOOKS is one folder of whole books; each stage takes those of its length. It is read once for each stage. Without
data=BOOKS the text is data.path, whatever its lengths.

Published (arXiv 2402.08268, and LargeWorldModel/LWM for the bases from 128K on): steps, bases of RoPE, 4M tokens a
step, a learning rate of 4e-5 at 32K and of 8e-5 behind it. From memory: the lengths of books in each stage (10K to
100K tokens, to 200K, to 500K, to 1M, above). Chosen here: a constant rate with 100 steps of warm-up in each stage. The
published run starts each stage from the parameters alone; here Adam's moments stay.

Arguments: model, a name of experiments.settings.models (Llama 7B); data; budget, the share of the steps that is taken;
fsdp=N rows at a time, over as many devices each as context=N; smoke.
"""

from experiments.settings import arguments, defaults, recipes

# of each stage: tokens of a row, steps, base of RoPE, fewest and most tokens of a book (0: any), scale of the rate
STAGES = {
    "books_32k": (2**15, 1200, 1e6, 10_000, 100_000, 1.0),
    "books_128k": (2**17, 3000, 1e7, 100_000, 200_000, 2.0),
    "books_256k": (2**18, 3000, 1e7, 200_000, 500_000, 2.0),
    "books_512k": (2**19, 720, 2.5e7, 500_000, 1_000_000, 2.0),
    "books_1m": (2**20, 450, 5e7, 1_000_000, 0, 2.0),
}


def get_config(arg: str = ""):
    args = arguments(arg, model="llama_7b", **recipes.ARGUMENTS)
    config = defaults()
    config.name = "lwm"
    phases = [
        recipes.phase(length, steps, 2**22, theta, lr="rewarm", lr_scale=scale, mix=(f"{name}(1)",))
        for name, (length, steps, theta, _, _, scale) in STAGES.items()
    ]
    sources = [
        dict(name=name, path="", shortest=shortest, longest=longest)
        for name, (_, _, _, shortest, longest, _) in STAGES.items()
    ]
    recipes.fill(config, args, phases, sources, warmup=100)
    config.optim.update(learning_rate=4e-5, schedule="constant")
    return config
