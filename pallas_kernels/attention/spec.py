"""AttentionSpec, the static half of a call of attention, and arithmetic of scores that implementations share."""

import dataclasses

import jax
import jax.numpy as jnp

from pallas_kernels import masks
from pallas_kernels.arguments import require_finite, require_whole, short
from pallas_kernels.attention.bias import Bias

_TINY = float(jnp.finfo(jnp.float32).tiny)


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Static description of one attention call; hashable.

    Attributes:
      mask: which query sees which key.
      scale: multiplies q.k; None is 1/sqrt(head dim).
      bias: added to the scaled scores, from the call's bias_params; None is none.
      soft_cap: scores become cap * tanh(scores / cap); 0 is none.
      partial: out, dq, dk, dv come in float32 because they are summed with other parts; else in the inputs' dtypes.
      block: tokens per block, for implementations that have one; 0 lets them choose.

    Raises ValueError for a mask or a bias of another type, and for numbers out of range.
    """

    mask: masks.Mask = masks.Causal()
    scale: float | None = None
    bias: Bias | None = None
    soft_cap: float = 0.0
    partial: bool = False
    block: int = 0

    def __post_init__(self):
        if not isinstance(self.mask, masks.Mask):
            raise ValueError(f"mask={short(self.mask)} must be one of pallas_kernels.masks, such as Causal().")
        if not isinstance(self.bias, Bias | None):
            raise ValueError(f"bias={short(self.bias)} must be None or of pallas_kernels.attention.bias, as Alibi().")
        if self.scale is not None:
            require_finite("scale", self.scale, _TINY, "above 0; None is 1 / sqrt(head dim)")
        require_finite("soft_cap", self.soft_cap, 0, "0 (none) or above")
        require_whole("block", self.block, 0, masks.MOST)

    def score_scale(self, head_dim: int) -> float:
        """The factor of q.k."""
        return self.scale if self.scale is not None else head_dim**-0.5

    def result_dtype(self, x: jax.Array) -> jnp.dtype:
        """The dtype of out, for queries x, or of the gradient of x."""
        return accumulator(x) if self.partial else x.dtype

    def rounded(self, grads, x):
        """Grads with dq, dk and dv in the dtypes that the caller wants for the gradients of Inputs x."""
        return grads._replace(
            dq=grads.dq.astype(self.result_dtype(x.q)),
            dk=grads.dk.astype(self.result_dtype(x.k)),
            dv=grads.dv.astype(self.result_dtype(x.v)),
        )


def accumulator(x: jax.Array) -> jnp.dtype:
    """The dtype to accumulate in: float32, or float64 where the input is."""
    return jnp.promote_types(x.dtype, jnp.float32)


def cap(scores: jax.Array, soft_cap: float) -> jax.Array:
    """Scores with a soft cap: cap * tanh(scores / cap); 0 is none."""
    return soft_cap * jnp.tanh(scores / soft_cap) if soft_cap else scores


def cap_slope(capped: jax.Array, soft_cap: float) -> jax.Array | float:
    """d(capped score) / d(score), from the capped score."""
    return 1.0 - jnp.square(capped / soft_cap) if soft_cap else 1.0
