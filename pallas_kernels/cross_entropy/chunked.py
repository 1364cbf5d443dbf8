"""Plain JAX, token chunk by token chunk: at most `spec.chunk` rows of logits exist, forward and backward."""

import jax
import jax.numpy as jnp

from pallas_kernels.cross_entropy import reference
from pallas_kernels.cross_entropy.spec import CrossEntropySpec, capped
from pallas_kernels.select import traced_platform
from pallas_kernels.turned import turned


def why_not(x, head, spec: CrossEntropySpec, platform: str) -> str | None:
    """None: plain JAX covers everything, anywhere."""
    return None


def forward(x, head, targets, spec: CrossEntropySpec):
    """(score, lse), each float32 [M]; see reference.forward."""
    xs, ts = _chunks(spec, x, targets)
    score, lse = jax.lax.map(lambda c: reference.forward(c[0], head, c[1], spec), (xs, ts))
    return score.reshape(-1)[: x.shape[0]], lse.reshape(-1)[: x.shape[0]]


def backward(x, head, targets, spec: CrossEntropySpec, lse, cotangent):
    """(dx [M, D], dhead [D, V]): logits are computed again from x, the softmax from the saved lse."""
    xs, ts, lses, dscores, dlses = _chunks(spec, x, targets, lse, *cotangent)
    head_rows, swapped = head.T, turned if traced_platform() == "cpu" else jnp.transpose

    def step(dhead, c):
        x, target, lse, dscore, dlse = c
        logits = capped(x, head, spec)
        hit = target[:, None] == jnp.arange(head.shape[1], dtype=target.dtype)[None]
        d = jnp.exp(logits - lse[:, None]) * dlse[:, None] + jnp.where(hit, dscore[:, None], 0.0)
        d = (d * spec.slope(logits)).astype(x.dtype)
        matmul = lambda a, b: jnp.matmul(a, b, preferred_element_type=logits.dtype)
        return dhead + matmul(swapped(x), d), matmul(d, head_rows).astype(x.dtype)

    zero = jnp.zeros_like(head, jnp.promote_types(head.dtype, jnp.float32)) + 0 * lse[0]  # varies as the tokens do
    dhead, dx = jax.lax.scan(step, zero, (xs, ts, lses, dscores, dlses))
    return dx.reshape(-1, x.shape[1])[: x.shape[0]], dhead.astype(head.dtype)


def _chunks(spec, *arrays):
    """Each array [M, ...] as [M / chunk, chunk, ...], padded with zeros (with zero cotangents)."""
    chunk = min(spec.chunk, arrays[0].shape[0])
    width = -arrays[0].shape[0] % chunk
    pad = lambda a: jnp.pad(a, [(0, width)] + [(0, 0)] * (a.ndim - 1)) if width else a
    return [pad(a).reshape(-1, chunk, *a.shape[1:]) for a in arrays]
