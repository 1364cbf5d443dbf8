"""Continued pretraining of Llama 3 8B to 512K tokens as ProLong's: 20B tokens in rows of 64K, then 20B of 512K.

    python -m experiments.train --config configs/recipes/prolong.py:data=FOLDER,fsdp=2,context=8 \\
        --config.init_from=meta-llama/Meta-Llama-3-8B-Instruct                  # 16 devices
    python -m experiments.train --config configs/recipes/prolong.py:data=FOLDER,context=8,budget=0.01
    python -m experiments.train --config configs/recipes/prolong.py:smoke       # 2 steps of a tiny model

FOLDER has a folder for each source: code, books, fineweb_edu, fineweb, stackexchange, wiki, tulu, arxiv, openwebmath
and textbooks. A document of `code` is a whole repository, one of `books` a book. Without data=FOLDER the text is
data.path, unmixed.

Published (arXiv 2410.02660 and princeton-nlp/ProLong): bases of RoPE, the mixture of each stage, 4M and 8M tokens a
step, 5000 and 2500 steps, rates of 1e-5 and 5e-6, each down to a tenth along a cosine; documents do not see each other,
and Adam's moments stay. Chosen here: of code and books, documents shorter than 64K are left out, and those of 512K are
told by their length out of the same folders, which are read twice. The warm-up is 500 steps of both stages, where it is
published as a tenth of each.

Arguments: model, a name of experiments.settings.models (Llama 3 8B); data; budget, the share of the steps that is
taken; fsdp=N rows at a time, over as many devices each as context=N; smoke.
"""

from experiments.settings import arguments, defaults, recipes

SHORT = dict(
    fineweb_edu=0.1, fineweb=0.1, stackexchange=0.04, wiki=0.04, tulu=0.03, arxiv=0.03, openwebmath=0.03, textbooks=0.03
)
LONG = SHORT | dict(code=0.15, code_512k=0.15, books=0.25, books_512k=0.05)  # of the second stage


def get_config(arg: str = ""):
    args = arguments(arg, model="llama3_8b", **recipes.ARGUMENTS)
    config = defaults()
    config.name = "prolong"
    mix = tuple(f"{name}({share})" for name, share in LONG.items())
    phases = [
        recipes.phase(2**16, 5000, 2**22, 8e6, lr="restart"),
        recipes.phase(2**19, 2500, 2**23, 1.28e8, lr="restart", lr_scale=0.5, mix=mix),
    ]
    sources = [dict(name=name, path=name, share=share) for name, share in SHORT.items()]
    for name in ("code", "books"):
        sources += [
            dict(name=name, path=name, share=0.3, shortest=2**16),
            dict(name=f"{name}_512k", path=name, share=0.0, shortest=2**19),
        ]
    recipes.fill(config, args, phases, sources, warmup=500)
    config.optim.learning_rate = 1e-5
    return config
