"""Cross-entropy of a linear head as the pair (score of the target, log-sum-exp): loss = lse - score.

As with attention the pair can be cut anywhere, here over the vocabulary: scores of disjoint parts add, log-sum-exps
merge by logaddexp, and the backward of a part needs only its own pair. No array [M, V] exists outside reference.py.

To add an implementation: one file with `why_not`, `forward` and `backward` (signatures as in reference.py), one line in
IMPLEMENTATIONS, its place in PREFERENCE.
"""
import functools

import jax

from pallas_kernels import dispatch
from pallas_kernels.cross_entropy import chunked, jax_triton, reference, tpu
from pallas_kernels.cross_entropy.spec import CrossEntropySpec

IMPLEMENTATIONS = {"reference": reference, "chunked": chunked, "tpu": tpu, "jax_triton": jax_triton}
PREFERENCE = {"cpu": ("chunked",), "gpu": ("chunked",), "tpu": ("tpu", "chunked")}   # what "auto" tries, in this order


def select(name: str, x, head, spec: CrossEntropySpec, platform: str | None = None):
    """The implementation module called `name`, or the first one for `platform` that can do the job when name is "auto".

    Raises:
      ValueError, NotImplementedError: see dispatch.choose.
    """
    return dispatch.choose("cross-entropy", IMPLEMENTATIONS, PREFERENCE, name, platform, x, head, spec)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def head_scores(x, head, targets, spec: CrossEntropySpec, implementation: str = "auto"):
    """Target scores and log-sum-exps of the logits x @ head, differentiable in x and head through both.

    Args:
      x: [M, D] hidden states.
      head: [D, V], or the columns of it that this device holds.
      targets: int32 [M]; a target outside [0, V) has score 0.
      implementation: a name in IMPLEMENTATIONS, or "auto".

    Returns:
      (score, lse), each float32 [M]; the loss of a token in nats is lse - score.
    """
    return select(implementation, x, head, spec).forward(x, head, targets, spec)


def _forward(x, head, targets, spec, implementation):
    score, lse = head_scores(x, head, targets, spec, implementation)
    return (score, lse), (x, head, targets, lse)


def _backward(spec, implementation, saved, cotangent):
    x, head, targets, lse = saved
    dx, dhead = select(implementation, x, head, spec).backward(x, head, targets, spec, lse, cotangent)
    return dx, dhead, None


head_scores.defvjp(_forward, _backward)
