"""cuDNN's flash attention, through jax's own implementation of it. The one place that knows jax's private names for it.

jax.nn.dot_product_attention calls the same, and has no way to give its backward the results of more keys than its own.
XLA asks cuDNN for the kernel when it compiles on a GPU; with none it compiles around the call.
"""

import inspect
from typing import NamedTuple

import jax.numpy as jnp


class Scores(NamedTuple):
    """The scores of a call: scale * q.k of the queries and keys that see one another by their places in the arrays.

    Attributes:
      scale: a factor.
      causal: query i sees key j where i >= j; else it sees all.
      window: and i - j < window; None: any.
    """

    scale: float
    causal: bool
    window: int | None


def forward(q, k, v, scores: Scores):
    """(out [B,T,N,H] in q's dtype, lse float32 [B,N,T] in nats); q [B,T,N,H], k and v [B,S,K,H]."""
    private = _private()
    return private._dot_product_attention_fwd_p_wrapper.bind(
        q, k, v, *_absent(q), is_training=True, **_how(private, scores)
    )


def backward(q, k, v, lse, out, dout, scores: Scores):
    """(dq, dk, dv) in the dtypes of q, k, v; weights are exp(score - lse), and of `out` only sum_h dout * out is used.

    lse: float32 [B,N,T]. It and out may be over more keys than these. dq is summed in no fixed order.
    """
    private = _private()
    return private._dot_product_attention_bwd_p_wrapper.bind(
        q, k, v, *_absent(q), lse, out, dout, **_how(private, scores)
    )


def _private():
    from jax._src.cudnn import fused_attention_stablehlo

    return fused_attention_stablehlo


def _absent(q):
    """Bias, lengths and offsets of queries and keys, and tables of pages of keys and values: none of them."""
    return [jnp.zeros(0, q.dtype)] * 7


def _how(private, scores):
    mask = private.MaskType.CAUSAL if scores.causal else private.MaskType.NO_MASK
    # 0.12 has a function of scores, too
    newer = "score_mod" in inspect.signature(private.dot_product_attention).parameters
    return dict(
        scale=scores.scale,
        seed=0,
        dropout_rate=0.0,
        variadic_args=(False, False),
        mask_type=mask,
        layout=private.AttentionLayout.BTNH.value,
        sliding_window_length=scores.window,
        **({"score_mod": None} if newer else {}),
    )
