"""Cross-entropy of a linear head as the pair (score of the target, log-sum-exp): loss = lse - score.

As with attention the pair can be cut anywhere, here over the vocabulary: scores of disjoint parts add, log-sum-exps
merge by logaddexp, and the backward of a part needs only its own pair. No array [M, V] exists outside reference.py.
"""
import functools

import jax

from pallas_kernels.cross_entropy import chunked, reference
from pallas_kernels.cross_entropy.spec import CrossEntropySpec

IMPLEMENTATIONS = {"reference": reference, "chunked": chunked}


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def head_scores(x, head, targets, spec: CrossEntropySpec, implementation: str = "chunked"):
    """Target scores and log-sum-exps of the logits x @ head, differentiable in x and head through both.

    Args:
      x: [M, D] hidden states.
      head: [D, V], or the columns of it that this device holds.
      targets: int32 [M]; a target outside [0, V) has score 0.

    Returns:
      (score, lse), each float32 [M]; the loss of a token in nats is lse - score.
    """
    return IMPLEMENTATIONS[implementation].forward(x, head, targets, spec)


def _forward(x, head, targets, spec, implementation):
    score, lse = head_scores(x, head, targets, spec, implementation)
    return (score, lse), (x, head, targets, lse)


def _backward(spec, implementation, saved, cotangent):
    x, head, targets, lse = saved
    dx, dhead = IMPLEMENTATIONS[implementation].backward(x, head, targets, spec, lse, cotangent)
    return dx, dhead, None


head_scores.defvjp(_forward, _backward)
