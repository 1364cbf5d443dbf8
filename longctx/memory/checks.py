"""The settings of memory.backward="autodiff" that move arrays to the hosts."""

from longctx.config import Config
from longctx.errors import UserError
from longctx.memory import host


def check_offload(config: Config) -> None:
    """Raises UserError for a name in memory.offload that hosts cannot hold in a step by autodiff."""
    layers, kinds, offload = config.model.layers, len(config.model.kinds), set(config.memory.offload)
    if other := offload - set(host.OF_WEIGHTS):
        raise UserError(
            f"memory.offload names {min(other)!r}, which is for memory.backward='streamed'; 'autodiff' "
            f"has {', '.join(map(repr, host.OF_WEIGHTS))}, and model.remat='offload_layer', "
            "'offload_attention' or 'tokens(0, 0.25)'."
        )
    if offload and config.memory.grad_accumulation > 1:
        raise UserError(
            f"memory.grad_accumulation={config.memory.grad_accumulation} adds up gradients on the device, and "
            f"memory.offload={config.memory.offload} keeps the state elsewhere; one of the two works."
        )
    if "params" in offload and config.model.remat == "none":
        raise UserError(
            "model.remat='none' keeps all weights on the device, and memory.offload names 'params'; 'layer' works."
        )
    if layers % kinds and (whole := offload - {"moments"}):
        raise UserError(
            f"memory.offload names {min(whole)!r}, for which model.layers={layers} must be a multiple of "
            f"the {kinds} kinds of layers of model.pattern; {-(-layers // kinds) * kinds} works."
        )
