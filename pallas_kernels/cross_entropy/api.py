"""Cross-entropy of a linear head as the pair (score of the target, log-sum-exp): loss = lse - score.

The pair can be cut anywhere, as that of attention, here over the vocabulary: scores of disjoint parts add, log-sum-exps
merge by logaddexp, and the backward of a part needs only its own pair. No array [M, V] exists outside reference.py.

To add an implementation: one file with `why_not`, `forward` and `backward` (signatures as in reference.py), one line in
IMPLEMENTATIONS, its place in PREFERENCE.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Integer

from pallas_kernels import lazy
from pallas_kernels.arguments import AnyArray, require_floats, require_integers, said
from pallas_kernels.cross_entropy import chunked, reference
from pallas_kernels.cross_entropy.spec import CrossEntropySpec
from pallas_kernels.select import Preference, choose

Scores = tuple[Float[Array, " M"], Float[Array, " M"]]  # (score, lse), or their cotangents
Typed = Array | jax.ShapeDtypeStruct  # an array, or its type alone


@runtime_checkable
class Implementation(Protocol):
    """What computes the pair of a part of the vocabulary: a module with these three functions."""

    def why_not(self, x: Typed, head: Typed, spec: CrossEntropySpec, platform: str, /) -> str | None:
        """The reason why this call cannot be; None when it can."""
        ...

    def forward(self, x: Array, head: Array, targets: Array, spec: CrossEntropySpec, /) -> Scores:
        """The pair (score, lse)."""
        ...

    def backward(
        self, x: Array, head: Array, targets: Array, spec: CrossEntropySpec, lse: Array, cotangent: Scores, /
    ) -> tuple[Array, Array]:
        """The gradients (dx, dhead)."""
        ...


IMPLEMENTATIONS: Mapping[str, Implementation] = lazy.Registry(
    {
        "reference": reference,
        "chunked": chunked,
        "tpu": "pallas_kernels.cross_entropy.tpu.kernel",
        "jax_triton": "pallas_kernels.cross_entropy.triton.kernel",
    }
)
# what "auto" tries, in this order
PREFERENCE: Preference = {"cpu": ("chunked",), "gpu": ("chunked",), "tpu": ("tpu", "chunked")}


def select(name: str, x: Typed, head: Typed, spec: CrossEntropySpec, platform: str | None = None) -> Implementation:
    """The implementation module called `name`, or the first one for `platform` that can do the job when name is "auto".

    Raises:
      ValueError, NotImplementedError: see pallas_kernels.select.choose.
    """
    return choose("cross-entropy", IMPLEMENTATIONS, PREFERENCE, name, platform, x, head, spec)


def head_scores(
    x: Float[Array, "M D"],
    head: Float[Array, "D V"],
    targets: Integer[Array, " M"],
    spec: CrossEntropySpec,
    implementation: str = "auto",
) -> Scores:
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
    return _differentiable(x, head, targets, spec, implementation)


def check(x: AnyArray, head: AnyArray, targets: AnyArray, letters: str = "M") -> None:
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


def _head_scores(x: Array, head: Array, targets: Array, spec: CrossEntropySpec, implementation: str) -> Scores:
    return select(implementation, x, head, spec).forward(x, head, targets, spec)


_differentiable = jax.custom_vjp(_head_scores, nondiff_argnums=(3, 4))


def _forward(
    x: Array, head: Array, targets: Array, spec: CrossEntropySpec, implementation: str
) -> tuple[Scores, tuple[Array, Array, Array, Array]]:
    score, lse = _differentiable(x, head, targets, spec, implementation)
    return (score, lse), (x, head, targets, lse)


def _backward(
    spec: CrossEntropySpec, implementation: str, saved: tuple[Array, Array, Array, Array], cotangent: Scores
) -> tuple[Array, Array, None]:
    x, head, targets, lse = saved
    dx, dhead = select(implementation, x, head, spec).backward(x, head, targets, spec, lse, cotangent)
    return dx, dhead, None


_differentiable.defvjp(_forward, _backward)
