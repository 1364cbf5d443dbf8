"""The next-token loss: chunked over the sequence, the vocabulary possibly cut over `tensor`, weighted per token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from longctx import meshes
from longctx.errors import UserError, as_user_error
from longctx.memory.tiled import tiled
from pallas_kernels.arguments import AnyArray, require_whole, said
from pallas_kernels.cross_entropy import api as cross_entropy
from pallas_kernels.cross_entropy.spec import CrossEntropySpec
from pallas_kernels.masks import MOST


def token_loss(
    x: Float[AnyArray, "B T D"],
    head: Float[AnyArray, "D V"],
    targets: Integer[AnyArray, "B T"],
    soft_cap: float = 0.0,
    weights: Float[AnyArray, "B T"] | None = None,
    tiles: int = 1,
) -> Float[Array, "B T"]:
    """Negative log-likelihood in nats of each target, float32 [B, T].

    x: hidden states BTD; head: [D, V] cut over `tensor` in V; targets: int32 [B, T]. Runs under jax.set_mesh.
    weights: [B, T]; given, tokens of weight 0 have loss 0, and of `tiles` parts of a shard's tokens, those that have
    a weight in front, as many go through the head as it takes for these (Long-VITA's masked logits).
    Raises UserError for shapes and dtypes that do not go together.
    """
    as_user_error(cross_entropy.check, x, head, targets, "BT")
    if weights is not None:
        _require_one_shape("targets", targets, "weights", weights)
        as_user_error(require_whole, "tiles", tiles, 1, MOST)

    def local(x, head, targets, *weights):
        shape, offset = targets.shape, jax.lax.axis_index("tensor") * head.shape[1]
        # the kernel wants its inputs typed alike; the transposes sum over these axes
        x = jax.lax.pcast(x, "tensor", to="varying")
        head = jax.lax.pcast(head, (*meshes.BATCH, *meshes.CONTEXT), to="varying")
        scores = lambda head, x, targets: cross_entropy.head_scores(x, head, targets, CrossEntropySpec(soft_cap))
        scores = of_weighted(scores, *weights, tiles) if weights else scores
        nll = nll_of_parts(*scores(head, x.reshape(-1, x.shape[-1]), (targets - offset).reshape(-1))).reshape(shape)
        return jnp.where(weights[0] != 0, nll, 0.0) if weights else nll

    specs = (meshes.HIDDEN, meshes.specs(head), meshes.TOKENS)
    given = () if weights is None else (weights,)
    return jax.shard_map(local, in_specs=specs + (meshes.TOKENS,) * len(given), out_specs=meshes.TOKENS)(
        x, head, targets, *given
    )


def nll_of_parts(score, lse):
    """The losses in nats of targets, from their scores and the log-sum-exps in each part of a vocabulary cut over
    `tensor`."""
    top = jax.lax.pmax(jax.lax.stop_gradient(lse), "tensor")
    return top + jnp.log(jax.lax.psum(jnp.exp(lse - top), "tensor")) - jax.lax.psum(score, "tensor")


def of_weighted(scores, weights, tiles: int):
    """`scores`, (head, x [M, D], targets [M]) -> a tree of [M], of tokens that have a weight, in tiles; of the others
    they are anything finite."""
    counted = weights.reshape(-1) != 0
    order = jnp.argsort(~counted, stable=True)
    moved = lambda a, order: a.at[order].get(mode="promise_in_bounds", unique_indices=True)

    def of_weighted(head, x, targets):
        sorted_scores = tiled(scores, head, moved(x, order), (moved(targets, order),), tiles, counted.sum())
        return jax.tree.map(lambda a: moved(a, jnp.argsort(order)), sorted_scores)

    return of_weighted


def mean_over_tokens(
    nll: Float[AnyArray, "B T"], weights: Float[AnyArray, "B T"], total: Float[Array, ""] | None = None
) -> Float[Array, ""]:
    """sum(nll * weights) / sum(weights) over all tokens of all shards, [B, T] each; 0 where every weight is 0.

    Both sums are global: shards weigh by their tokens. A mean of the shards' means would favour those mostly padded.
    total: the divisor where these are some of the rows of a batch, whose means then add up to that of the batch.
    """
    _require_one_shape("nll", nll, "weights", weights)
    total = weights.sum() if total is None else total
    return jnp.where(total > 0, (nll * weights).sum() / jnp.where(total > 0, total, 1.0), 0.0)


def by_source(
    nll: Float[AnyArray, "B T"],
    weights: Float[AnyArray, "B T"],
    sources: Bool[AnyArray, "B *rows sources"],
    rows: Integer[AnyArray, "B T"] | None = None,
) -> Float[Array, "2 sources"]:
    """Sums over the rows of each source, of all shards: of nll * weights, and of the weights.

    The first divided by the second is the mean loss of a source; summed over the sources, that of mean_over_tokens.
    sources: whether a row is of a source. A row that is not finite spoils its own source only. Where rows are joined
    (data.joining), sources [B, rows, sources], and of which of them each token is.
    """
    _require_one_shape("nll", nll, "weights", weights)
    if rows is None:
        sums = jnp.stack([(nll * weights).sum(1), weights.sum(1)])  # 2B
    else:
        of_row = lambda x: [jnp.where(rows == row, x, 0.0).sum(1) for row in range(sources.shape[1])]
        sums = jnp.stack([jnp.stack(of_row(x), 1) for x in (nll * weights, weights)])  # 2B rows
    return jnp.where(sources, sums[..., None], 0.0).sum(range(1, sums.ndim))


def _require_one_shape(name: str, x: AnyArray, other_name: str, other: AnyArray) -> None:
    if x.shape != other.shape:
        raise UserError(f"{said(name, x)} and {said(other_name, other)} must be of one shape [B, T].")
