"""Pretraining of 1B parameters on pieces of 256 to 8192 tokens, short ones first: Dataset Decomposition.

    python -m experiments.train --config configs/recipes/dataset_decomposition.py:data=FOLDER,fsdp=8
    python -m experiments.train --config configs/recipes/dataset_decomposition.py:data=FOLDER,order=uniform
    python -m experiments.train --config configs/recipes/dataset_decomposition.py:smoke     # 2 steps of a tiny model

Documents are cut into pieces of 2^k tokens, each step has pieces of one length (data.packing="decomposition"), and in
each of eight cycles short ones are likelier first (stages[i].order="grow_p2(8)"). Published are batches of another
shape for each length; here rows have 8192 tokens, pieces of one length side by side: one program, whose attention costs
the pieces alone. `experiments.data` with the same --config shows the lengths over the steps.

Published (apple/ml-dataset-decomposition and arXiv 2405.13226): OpenLM's 1B, 512K tokens a step, 28.9B tokens, the odds
and cycles, a learning rate of 3e-3 down to 3e-5 after 5000 steps, weight decay 0.033, a base of RoPE of 100,000. Left
out: the z-loss, and that OpenLM's norms of queries and keys run over all heads at once. FOLDER is what data.path would
be.

Arguments: model, a name of experiments.settings.models (OpenLM 1B); order, a name in longctx.data.orders, and cycles of
it; data; budget, the share of the steps that is taken; fsdp=N rows at a time, over as many devices each as context=N;
smoke.
"""

from experiments.settings import arguments, defaults, recipes

STEPS = 8 * 430 * 16  # cycles, batches of 2^23 tokens in one of them, steps in such a batch


def get_config(arg: str = ""):
    args = arguments(arg, model="openlm_1b", order="grow_p2", cycles=8, **recipes.ARGUMENTS)
    config = defaults()
    config.name = "dataset-decomposition"
    order = f"{args.order}({2 if args.smoke else args.cycles})"
    recipes.fill(config, args, [recipes.phase(2**13, STEPS, 2**19, 1e5, order=order)], warmup=5000, smoke_length=512)
    config.data.packing = "decomposition"
    config.optim.update(learning_rate=3e-3, final_fraction=0.01, weight_decay=0.033)
    return config
