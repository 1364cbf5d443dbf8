"""What a training step needs of hardware that is not here: memory by kind, FLOPs, bytes on links, and a time.

The step is compiled by the compiler of that hardware, and read: what is printed as compiled is the compiler's own
count. A time is predicted from it by hardware.CHIPS, and is no measurement.
"""

from longctx.config import Config


def settle(config: Config, mesh, text, corpus, tokenizer) -> Config:
    """The config with names for what attention.strategy and attention.layout leave to choose ("auto"), by what is
    predicted to be fastest on the devices of the mesh, over rows of the run's own text: see planner/auto.py.

    text: the table of corpus.train. Raises UserError where nothing works.
    """
    import functools

    from experiments.hardware import targets
    from experiments.meter import rows
    from experiments.planner import auto

    batches = functools.partial(rows.of_text, config, text=text, corpus=corpus, tokenizer=tokenizer)
    return auto.settle(config, targets.here(mesh), batches)
