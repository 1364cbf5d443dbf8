"""What every implementation is given besides its arrays."""
import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class CrossEntropySpec:
    """soft_cap: logits become cap * tanh(logits / cap), 0 is none. chunk: tokens whose logits exist at one time."""
    soft_cap: float = 0.0
    chunk: int = 1024


def capped(x, head, spec: CrossEntropySpec):
    """Logits x @ head in the accumulator dtype, soft-capped."""
    logits = jnp.matmul(x, head, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))
    return spec.soft_cap * jnp.tanh(logits / spec.soft_cap) if spec.soft_cap else logits
