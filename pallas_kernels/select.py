"""The choice among implementations of one computation, alike for attention and cross-entropy."""

import logging
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import jax

from pallas_kernels import gpu_chips

# names in order of preference, by platform, or by compute capability of GPUs
Preference = Mapping[str | tuple[int, int], tuple[str, ...]]
_log = logging.getLogger(__name__)


class Candidate(Protocol):
    """What can be chosen: a module or an object that has `why_not(*call, platform)`."""

    @property
    def why_not(self) -> Callable[..., str | None]:
        """The reason why it cannot do the call; None when it can."""
        ...


Chosen = TypeVar("Chosen", bound=Candidate)


def traced_platform() -> str:
    """The platform of the devices that a program is traced for: the ambient mesh's, else the default ones."""
    target = jax.sharding.get_abstract_mesh().abstract_device
    return target.platform if target else jax.default_backend()


def choose(
    what: str,
    implementations: Mapping[str, Chosen],
    preference: Preference,
    name: str,
    platform: str | None,
    *call: object,
    but: str | None = None,
) -> Chosen:
    """The implementation called `name`, or the first one on `platform` that can do `call` when name is "auto".

    Args:
      what: the name of the computation, for messages.
      implementations: modules by name; each has why_not(*call, platform), the reason why it cannot, or None.
      preference: the names that "auto" tries in order, by platform; on GPUs by compute capability where it is there.
      platform: when None, traced_platform().
      but: a name that "auto" leaves out.

    Raises:
      ValueError: for an unknown name (the known ones are listed).
      NotImplementedError: when the named one cannot, or none can; with each one's reason.
    """
    platform = platform or traced_platform()
    if name != "auto" and name not in implementations:
        raise ValueError(f"{what} kernel {name!r} is not known. Known: auto, {', '.join(implementations)}.")
    capability = gpu_chips.capability() if platform == "gpu" else None
    order = preference[platform] if capability is None else preference.get(capability, preference[platform])
    reasons = []
    for candidate in [other for other in order if other != but] if name == "auto" else (name,):
        reason = implementations[candidate].why_not(*call, platform)
        if reason is None:
            _log.debug("%s kernel: %s", what, candidate)
            return implementations[candidate]
        reasons.append(f"{candidate}: {reason}")
    raise NotImplementedError(f"no {what} kernel for this call on {platform}. " + "; ".join(reasons))
