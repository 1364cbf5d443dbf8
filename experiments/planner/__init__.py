"""Plans: memory, FLOPs, link traffic and time of a training step on hardware that this machine does not have.

The step is compiled by that hardware's compiler, whose own counts are printed as "compiled". Times are predicted from
the counts by the rates in hardware.targets.CHIPS; they are no measurements.
"""

from longctx.config import Config


def settle(config: Config, mesh, texts, tokenizer) -> Config:
    """The config with names for what attention.strategy and attention.layout leave to choose ("auto"), by what is
    predicted to be fastest on the devices of the mesh, over rows of the run's own text: see planner/auto.py.

    Raises UserError where nothing works.
    """
    import functools

    from experiments.hardware import targets
    from experiments.meter import rows
    from experiments.planner import auto

    batches = functools.partial(rows.of_text, config, texts=texts, tokenizer=tokenizer)
    return auto.settle(config, targets.of_mesh(mesh), batches)
