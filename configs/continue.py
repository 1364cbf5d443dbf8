"""A Hugging Face model trained further, on longer rows. The folder gives every setting of the model.

    python -m experiments.train --config configs/continue.py --config.init_from=FOLDER --config.data.path=TEXT \\
        --config.model.rope.scaling=yarn --config.model.rope.factor=4
    python -m experiments.train --config configs/continue.py:length=32768,steps=500 --config.init_from=FOLDER \\
        --config.data.path=TEXT

Arguments: length (tokens of a row), steps (of one row each), smoke (a run in miniature). Without init_from it trains
the default small model.
"""

from experiments.settings import arguments, defaults, stage


def get_config(arg: str = ""):
    args = arguments(arg, length=8192, steps=100, smoke=False)
    length, steps = (256, 4) if args.smoke else (args.length, args.steps)
    config = defaults()
    config.name = "continue"
    config.batch_tokens = length
    config.stages = (stage(seq_len=length, steps=steps),)
    config.optim.update(learning_rate=1e-5, warmup_steps=10, weight_decay=0.0)
    config.checkpoint.every_steps = 50
    config.log.every_steps = 5
    if args.smoke:
        config.eval.update(documents=1, depths=2, samples=1)
    else:
        config.eval.tasks = (*config.eval.tasks, "questions")  # the suite "quick": a pretrained model has answers
    return config
