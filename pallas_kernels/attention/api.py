"""Attention with a choice of implementation: `attention` for one device, `forward` and `backward` for those who cut it.

To add an implementation: one file with `why_not`, `forward` and `backward` (signatures as in reference.py), one line in
IMPLEMENTATIONS, its place in PREFERENCE.
"""

import functools

import jax

from pallas_kernels import select as dispatch
from pallas_kernels.attention import arguments, chunked, reference
from pallas_kernels.attention.cudnn import Cudnn
from pallas_kernels.attention.mosaic_gpu import kernel as mosaic_gpu
from pallas_kernels.attention.spec import AttentionSpec, rows
from pallas_kernels.attention.tpu import kernel as tpu
from pallas_kernels.attention.triton import kernel as triton
from pallas_kernels.masks import Tokens

IMPLEMENTATIONS = {
    "reference": reference,
    "chunked": chunked,
    "tpu": tpu,
    "mosaic_gpu": mosaic_gpu,
    "jax_triton": triton,
    "cudnn": Cudnn(
        lambda *call: dispatch.choose("attention", IMPLEMENTATIONS, PREFERENCE, "auto", "gpu", *call, but="cudnn")
    ),
}
# What "auto" tries, in this order: by platform, or compute capability where that has an order of its own. Those are not
# measured yet, but follow published TFLOP/s, here of bfloat16, causal, head dim 128.
PREFERENCE = {
    "cpu": ("chunked",),
    "tpu": ("tpu", "chunked"),
    "gpu": ("cudnn", "jax_triton", "chunked"),
    # H100, 8k to 16k: cuDNN 529 to 539 forward, 470 backward; Triton 369 to 378 forward (arXiv 2407.08608)
    (9, 0): ("cudnn", "mosaic_gpu", "jax_triton", "chunked"),
    (10, 0): ("cudnn", "jax_triton", "chunked"),  # B200: cuDNN is twice as fast as Triton (arXiv 2603.05451)
}


def select(name: str, q, k, spec: AttentionSpec, platform: str | None = None):
    """The implementation module called `name`, or the first one for `platform` that can do the job when name is "auto".

    Raises:
      ValueError: for an unknown name (the known ones are listed).
      NotImplementedError: when the named one cannot, or none can; with each one's reason.
    """
    return dispatch.choose("attention", IMPLEMENTATIONS, PREFERENCE, name, platform, q, k, spec)


def attention(q, k, v, tokens: tuple[Tokens, Tokens], spec: AttentionSpec, implementation: str = "auto", table=None):
    """Softmax attention as the mergeable pair (out, lse), differentiable in q, k, v and table through both.

    Args:
      q: [B, T, N, H].
      k, v: [B, S, K, H]; K divides N (GQA, MQA).
      tokens: (of the queries [B, T], of the keys [B, S]): positions and segment ids, all a mask may know; integers.
      spec: mask, scale, soft cap.
      implementation: a name in IMPLEMENTATIONS, or "auto".
      table: [N, D], what spec.bias reads.

    Returns:
      out [B, T, N, H] in q's dtype (float32 when spec.partial), and lse float32 [B, T, N]: log-sum-exp of the scores in
      nats. Rows that see no key have out = 0 and lse = -inf.

    Raises:
      ValueError: for shapes and dtypes that do not go together, or ids below 0 where they are known.
      ValueError, NotImplementedError: see select.
    """
    q, k, v, table = (arguments.as_jax(x) for x in (q, k, v, table))
    arguments.check_arrays(q, k, v)
    tokens = tuple(arguments.checked_tokens(here, x, name) for here, x, name in zip(tokens, (q, k), "qk", strict=True))
    arguments.check_table(spec.bias, table, q.shape[2])
    return _attention(q, k, v, tokens, spec, implementation, table)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attention(q, k, v, tokens, spec, implementation, table):
    return select(implementation, q, k, spec).forward(q, k, v, tokens, spec, table)


def _forward(q, k, v, tokens, spec, implementation, table):
    result = _attention(q, k, v, tokens, spec, implementation, table)
    return result, (q, k, v, tokens, table, result)


def _backward(spec, implementation, saved, cotangent):
    q, k, v, tokens, table, result = saved
    needed = rows(result, cotangent)
    dq, dk, dv, dtable = select(implementation, q, k, spec).backward(q, k, v, tokens, spec, needed, table)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, dtable


_attention.defvjp(_forward, _backward)
