"""The checks of settings, whatever the data is: every room of longctx checks its own, from the most basic on."""

from experiments.settings import bounds
from longctx import cuts, layouts
from longctx.config import Config
from longctx.data import curriculum
from longctx.positions import checks as positions


def check_settings(config: Config) -> tuple[curriculum.Stage, ...]:
    """The stages of a run. Raises UserError, one line, for the first setting that cannot work, whatever the data is.

    Sizes come first. The second half imports jax, for the dicts that hold the names hold functions of it.
    """
    bounds.check(config)
    cuts.check_config(config)
    positions.check(config)
    stages = curriculum.plan(config)
    layouts.check_stages(config, [stage.shape[1] for stage in stages])

    from longctx import optim, training
    from longctx.context_parallel import checks as context_parallel
    from longctx.evals import api as evals
    from longctx.model import names

    names.check(config.model, config.mesh.axes)
    context_parallel.check(config)
    training.check(config)
    optim.check(config)
    positions.check_augmentations(config)
    evals.check(config.eval)
    return stages
