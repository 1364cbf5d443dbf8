"""Pretraining on rows that grow from 128 to 1024 tokens in four equal parts of the steps, as GrowLength's.

    python -m experiments.train --config configs/recipes/grow_length.py:data=FOLDER
    python -m experiments.train --config configs/recipes/grow_length.py:data=FOLDER,one_shape
    python -m experiments.train --config configs/recipes/grow_length.py:smoke   # 2 steps of a tiny model

All steps have equally many tokens, so that steps of short rows are cheaper, and each length is compiled once. With
one_shape all rows have 1024 tokens and hold pieces of 256, then of 512, then of 1024 (data.packing="decomposition",
stages[i].order="grow_length"): one program, whose attention skips what pieces do not see.

From memory of arXiv 2310.00576: the lengths, and equal steps of each. Chosen here: a model of 135M parameters, 2500
steps of 256K tokens for each length, a learning rate of 6e-4 along one cosine. FOLDER is what data.path would be.

Arguments: model, a name of experiments.settings.models (SmolLM2 135M); one_shape; data; budget, the share of the steps
that is taken; fsdp=N rows at a time, over as many devices each as context=N; smoke.
"""

from experiments.settings import arguments, defaults, recipes

LENGTHS = (128, 256, 512, 1024)


def get_config(arg: str = ""):
    args = arguments(arg, model="smollm2_135m", one_shape=False, **recipes.ARGUMENTS)
    config = defaults()
    config.name = "grow-length"
    phases = [recipes.phase(length, 2500, 2**18) for length in LENGTHS]
    if args.one_shape:
        phases = [recipes.phase(LENGTHS[-1], 2500 * len(LENGTHS), 2**18, order="grow_length")]
    recipes.fill(config, args, phases, warmup=500, smoke_length=512 if args.one_shape else 128)
    config.data.packing = "decomposition" if args.one_shape else "concat_and_cut"
    config.optim.learning_rate = 6e-4
    return config
