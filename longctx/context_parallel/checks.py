"""The settings of attention: names, and whether the strategy can cut the attention of every kind of layer."""

from longctx.config import Config
from longctx.context_parallel import api
from longctx.errors import unknown_name
from longctx.positions import view
from pallas_kernels.attention.api import IMPLEMENTATIONS


def check(config: Config) -> None:
    """Raises UserError for an unknown kernel or strategy, for a kind of layer whose mask or position method is unknown,
    and where the strategy cannot cut its attention on the mesh."""
    for field, name, known in (
        ("attention.kernel", config.attention.kernel, {"auto", *IMPLEMENTATIONS}),
        ("attention.strategy", config.attention.strategy, api.STRATEGIES),
    ):
        if name not in known:
            raise unknown_name(field, name, known)
    kinds = {"model": config.model, **{f"model.pattern[{i}]": kind for i, kind in enumerate(config.model.kinds)}}
    for field, kind in kinds.items():
        method, mask, _ = view.resolve(kind, field)
        for part in method.parts():
            api.check(api.plan_of(config), mask & part.mask)
    view.learned_numbers(config.model.kinds)
