"""Pretraining of 1B parameters on rows of 8K tokens in which documents are cut shorter at first, as SkyLadder's.

    python -m experiments.train --config configs/recipes/sky_ladder.py:data=FOLDER,fsdp=8
    python -m experiments.train --config configs/recipes/sky_ladder.py:data=FOLDER,form=sin,rate=4
    python -m experiments.train --config configs/recipes/sky_ladder.py:smoke    # 2 steps of a tiny model

The window begins at 32 tokens and grows by one every 8 steps, until documents are whole after two thirds of the steps
(stages[i].window). Rows keep their length: one program, whose attention skips what is cut off.

Published (sail-sg/SkyLadder): the model (TinyLlama's shape), 100,000 steps of 1M tokens, a learning rate of 4e-4 down
to 4e-5 along a cosine after 2000 steps, weight decay 0.1, the window and its rate, and that documents do not see each
other. Chosen here: the window goes in multiples of 32, which tiles of attention can skip. longctx/data/windows.py says
how its cuts differ. FOLDER is what data.path would be.

Arguments: model, a name of experiments.settings.models (TinyLlama 1.1B); form, of windows; rate, the steps in which a
linear one grows by a token; data; budget, the share of the steps that is taken; fsdp=N rows at a time, over as many
devices each as context=N; smoke.
"""

from experiments.settings import arguments, defaults, recipes

LENGTH, START, STEPS = 2**13, 32, 100_000


def get_config(arg: str = ""):
    args = arguments(arg, model="tinyllama_1b", form="linear", rate=8, **recipes.ARGUMENTS)
    config = defaults()
    config.name = "sky-ladder"
    share = args.rate * (LENGTH - START) / STEPS
    window = f"{args.form}({START}, {share:.4f}, {START})"
    recipes.fill(config, args, [recipes.phase(LENGTH, STEPS, 2**20, 1e4, window=window)], warmup=2000)
    config.data.packing = "concat_and_cut"
    config.optim.learning_rate = 4e-4
    return config
