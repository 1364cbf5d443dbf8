"""Cross-entropy of a linear head as the pair (score of the target, log-sum-exp): loss = lse - score.

The pair can be cut anywhere, as that of attention, here over the vocabulary: scores of disjoint parts add, log-sum-exps
merge by logaddexp, and the backward of a part needs only its own pair. No array [M, V] exists outside reference.py.

To add an implementation: one file with `why_not`, `forward` and `backward` (signatures as in reference.py), one line in
IMPLEMENTATIONS, its place in PREFERENCE.
"""

import functools

import jax

from pallas_kernels import lazy
from pallas_kernels.arguments import require_floats, require_integers, said
from pallas_kernels.cross_entropy import chunked, reference
from pallas_kernels.cross_entropy.spec import CrossEntropySpec
from pallas_kernels.select import choose

IMPLEMENTATIONS = lazy.Registry(
    {
        "reference": reference,
        "chunked": chunked,
        "tpu": "pallas_kernels.cross_entropy.tpu.kernel",
        "jax_triton": "pallas_kernels.cross_entropy.triton.kernel",
    }
)
PREFERENCE = {"cpu": ("chunked",), "gpu": ("chunked",), "tpu": ("tpu", "chunked")}  # what "auto" tries, in this order


def select(name: str, x, head, spec: CrossEntropySpec, platform: str | None = None):
    """The implementation module called `name`, or the first one for `platform` that can do the job when name is "auto".

    Raises:
      ValueError, NotImplementedError: see pallas_kernels.select.choose.
    """
    return choose("cross-entropy", IMPLEMENTATIONS, PREFERENCE, name, platform, x, head, spec)


def head_scores(x, head, targets, spec: CrossEntropySpec, implementation: str = "auto"):
    """Target scores and log-sum-exps of the logits x @ head, differentiable in x and head through both.

    Args:
      x: [M, D] hidden states.
      head: [D, V], or the columns of it that this device holds.
      targets: int32 [M]; a target outside [0, V) has score 0.
      implementation: a name in IMPLEMENTATIONS, or "auto".

    Returns:
      (score, lse), each float32 [M]; the loss of a token in nats is lse - score.

    Raises:
      ValueError: for shapes and dtypes that do not go together.
      ValueError, NotImplementedError: see select.
    """
    check(x, head, targets)
    return _head_scores(x, head, targets, spec, implementation)


def check(x, head, targets, letters: str = "M") -> None:
    """Raises ValueError unless hidden states [M, D], a head [D, V] and targets [M] go together.

    letters: of the axes of tokens, M or others.
    """
    require_floats("x", x, letters + "D")
    require_floats("head", head, "DV")
    require_integers("targets", targets, letters)
    if x.shape[-1] != head.shape[0] or x.dtype != head.dtype:
        raise ValueError(f"{said('x', x)} and {said('head', head)} must have one dtype and one D: x @ head are logits.")
    if x.shape[:-1] != targets.shape:
        raise ValueError(f"{said('x', x)} and {said('targets', targets)}: there must be a target for each token.")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _head_scores(x, head, targets, spec, implementation):
    return select(implementation, x, head, spec).forward(x, head, targets, spec)


def _forward(x, head, targets, spec, implementation):
    score, lse = _head_scores(x, head, targets, spec, implementation)
    return (score, lse), (x, head, targets, lse)


def _backward(spec, implementation, saved, cotangent):
    x, head, targets, lse = saved
    dx, dhead = select(implementation, x, head, spec).backward(x, head, targets, spec, lse, cotangent)
    return dx, dhead, None


_head_scores.defvjp(_forward, _backward)
