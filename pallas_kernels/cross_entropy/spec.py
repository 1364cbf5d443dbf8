"""CrossEntropySpec, the static half of a call of cross-entropy, and how logits are made."""

import dataclasses

import jax.numpy as jnp

from pallas_kernels.arguments import require_finite, require_whole


@dataclasses.dataclass(frozen=True)
class CrossEntropySpec:
    """Static description of one call: how logits are made, and how many at a time.

    Attributes:
      soft_cap: logits become cap * tanh(logits / cap); 0 is none.
      chunk: tokens whose logits exist at one time, at most.
    """

    soft_cap: float = 0.0
    chunk: int = 1024

    def __post_init__(self):
        require_finite("soft_cap", self.soft_cap, 0, "0 (none) or above")
        require_whole("chunk", self.chunk, 1, 2**31 - 1)

    def cap(self, logits):
        """The soft-capped logits."""
        return self.soft_cap * jnp.tanh(logits / self.soft_cap) if self.soft_cap else logits

    def slope(self, capped):
        """d(capped logit) / d(logit), from the capped logit."""
        return 1.0 - jnp.square(capped / self.soft_cap) if self.soft_cap else 1.0


def capped(x, head, spec: CrossEntropySpec):
    """Logits x @ head in the accumulator dtype, soft-capped."""
    return spec.cap(jnp.matmul(x, head, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32)))
