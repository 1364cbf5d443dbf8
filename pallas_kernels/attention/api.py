"""Attention on one device with a choice of implementation, differentiable; `select` is for callers that cut it.

To add an implementation: one file with `why_not`, `forward` and `backward` (signatures in pair.py), one line in
IMPLEMENTATIONS, its place in PREFERENCE.
"""

# parts of jax have no types, custom_vjp among them
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Mapping

import jax

from pallas_kernels import lazy
from pallas_kernels.attention import arguments, chunked, decode, reference
from pallas_kernels.attention.cudnn import Cudnn
from pallas_kernels.attention.pair import Implementation, Inputs, Pair, row_stats
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.select import Preference, choose


def _without_cudnn(x: Inputs, spec: AttentionSpec) -> Implementation:
    """The implementation on a GPU of what cuDNN cannot do."""
    return choose("attention", IMPLEMENTATIONS, PREFERENCE, "auto", "gpu", x, spec, but="cudnn")


IMPLEMENTATIONS: Mapping[str, Implementation] = lazy.Registry(
    {
        "reference": reference,
        "chunked": chunked,
        "decode": decode,
        "tpu": "pallas_kernels.attention.tpu.kernel",
        "tpu_decode": "pallas_kernels.attention.tpu.decode",
        "mosaic_gpu": "pallas_kernels.attention.mosaic_gpu.kernel",
        "jax_triton": "pallas_kernels.attention.triton.kernel",
        "triton_decode": "pallas_kernels.attention.triton.decode",
        "cudnn": Cudnn(_without_cudnn),
    }
)
# What "auto" tries, in this order: by platform, or compute capability where that has an order of its own. Those are not
# measured yet, but follow published TFLOP/s, here of bfloat16, causal, head dim 128.
PREFERENCE: Preference = {
    "cpu": ("decode", "chunked"),
    # tpu_decode by its name alone: where layers are scanned, XLA copies the keys of each out of the stack before a
    # Pallas kernel (8192 keys of Llama 3 8B, compiled for v5e: 33 MiB of temporary memory), not for matmuls (0.1). A
    # cache is read in the stack by tpu.decode.of_layer: see longctx/generation/cache.py
    "tpu": ("decode", "tpu", "chunked"),
    "gpu": ("triton_decode", "cudnn", "jax_triton", "chunked"),
    # H100, 8k to 16k: cuDNN 529 to 539 forward, 470 backward; Triton 369 to 378 forward (arXiv 2407.08608)
    (9, 0): ("triton_decode", "cudnn", "mosaic_gpu", "jax_triton", "chunked"),
    # B200: cuDNN is twice as fast as Triton (arXiv 2603.05451)
    (10, 0): ("triton_decode", "cudnn", "jax_triton", "chunked"),
}


def select(name: str, x: Inputs, spec: AttentionSpec, platform: str | None = None) -> Implementation:
    """The implementation called `name`, or the first one for `platform` that can do the job when name is "auto".

    Raises:
      ValueError: for an unknown name (the known ones are listed).
      NotImplementedError: when the named one cannot, or none can; with each one's reason.
    """
    return choose("attention", IMPLEMENTATIONS, PREFERENCE, name, platform, x, spec)


def attention(x: Inputs, spec: AttentionSpec, implementation: str = "auto") -> Pair:
    """Softmax attention as the mergeable pair (out, lse), differentiable through both in q, k, v and bias_params.

    Args:
      x: q [B, T, N, H], k and v [B, S, K, H]; positions and segments, integers [B, T] and [B, S], are all that a mask
        or a bias may know of tokens.
      spec: mask, scale, bias, soft cap.
      implementation: a name in IMPLEMENTATIONS, or "auto".

    Returns:
      Pair: out [B, T, N, H] in q's dtype (float32 when spec.partial), and lse float32 [B, T, N]: log-sum-exp of the
      scores in nats. Rows that see no key have out = 0 and lse = -inf.

    Raises:
      ValueError: for shapes and dtypes that do not go together, or ids below 0 where they are known.
      ValueError, NotImplementedError: see select.
    """
    q, k, v = (arguments.as_jax(y) for y in (x.q, x.k, x.v))
    params = None if x.bias_params is None else arguments.as_jax(x.bias_params)
    arguments.check_arrays(q, k, v)
    q_info, k_info = arguments.checked_info(x.q_info, q, "q"), arguments.checked_info(x.k_info, k, "k")
    arguments.check_bias_params(spec.bias, params, q.shape[2])
    return _differentiable(Inputs(q, k, v, q_info, k_info, params, x.keep), spec, implementation)


def _attention(x: Inputs, spec: AttentionSpec, implementation: str) -> Pair:
    return select(implementation, x, spec).forward(x, spec)


_differentiable = jax.custom_vjp(_attention, nondiff_argnums=(1, 2))


def _forward(x: Inputs, spec: AttentionSpec, implementation: str) -> tuple[Pair, tuple[Inputs, Pair]]:
    pair = _differentiable(x, spec, implementation)
    return pair, (x, pair)


def _backward(spec: AttentionSpec, implementation: str, saved: tuple[Inputs, Pair], cotangent: Pair) -> tuple[Inputs]:
    x, pair = saved
    grads = select(implementation, x, spec).backward(x, spec, row_stats(pair, cotangent))
    dq, dk, dv = (g.astype(y.dtype) for g, y in zip(grads[:3], x[:3], strict=True))
    return (x._replace(q=dq, k=dk, v=dv, q_info=None, k_info=None, bias_params=grads.dbias, keep=None),)


_differentiable.defvjp(_forward, _backward)
