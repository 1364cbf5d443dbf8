"""Checks of a model's settings that need its modules: names against the dicts, sizes of feed-forward layers."""

from collections.abc import Mapping

from longctx.config import ModelConfig
from longctx.errors import unknown_name
from longctx.memory import remat
from longctx.model import lora
from longctx.model.attention import QK_NORMS
from longctx.model.block import BLOCKS, FEED_FORWARDS
from longctx.model.mlp import ACTIVATIONS
from longctx.model.norm import NORMS
from pallas_kernels.arguments import FLOATS


def check(model: ModelConfig, axes: Mapping[str, int]) -> None:
    """Raises UserError for the first name that is not known or size that does not fit.

    axes: the length of each mesh axis.
    """
    names = [
        ("model.block", model.block, BLOCKS),
        ("model.norm", model.norm, NORMS),
        ("model.qk_norm", model.qk_norm, QK_NORMS),
        ("model.activation", model.activation, ACTIVATIONS),
        ("model.dtype", model.dtype, FLOATS),
        ("model.param_dtype", model.param_dtype, FLOATS),
        ("model.feed_forward", model.feed_forward, FEED_FORWARDS),
        *((f"model.pattern[{i}].feed_forward", kind.feed_forward, FEED_FORWARDS) for i, kind in enumerate(model.kinds)),
    ]
    for field, name, known in names:
        if name not in known:
            raise unknown_name(field, name, known)
    remat.parse(model.remat)
    for kind in model.kinds:
        FEED_FORWARDS[kind.feed_forward].check(model, axes["tensor"])
    lora.check(model)
