"""Rematerialization policies: what a layer keeps for its backward. To add one: a function, and a line in POLICIES."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from longctx.errors import UserError
from longctx.parsing import parse_call

_policies = jax.checkpoint_policies
KEPT, MOVED, RECOMPUTED = "tokens_kept", "tokens_moved", "tokens_recomputed"  # see by_fractions


class Remat(NamedTuple):
    """A rematerialization policy.

    Attributes:
      policy: for jax.checkpoint; None keeps everything.
      kept, moved: names of the arrays that are kept in device memory, and in host memory.
      keep, offload: fractions of a shard's tokens, see `tokens`.
    """

    policy: Callable | None
    kept: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    keep: float = 0.0
    offload: float = 0.0

    def keeps(self, name: str) -> bool:
        """Whether the array called `name` is kept for the backward, in either memory."""
        return self.policy is None or name in self.kept + self.moved


def _named(kept: list[str], moved: list[str], keep: float = 0.0, offload: float = 0.0) -> Remat:
    """A policy that keeps the arrays named in `kept` in device memory and those in `moved` in host memory."""
    policy = _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=kept,
        names_which_can_be_offloaded=moved,
        offload_src="device",
        offload_dst="pinned_host",
    )
    return Remat(policy, tuple(kept), tuple(moved), keep, offload)


def keep_all() -> Remat:
    """Keep every intermediate result; compute nothing twice."""
    return Remat(None)


def layer() -> Remat:
    """Keep only the input of a layer."""
    return Remat(_policies.nothing_saveable)


def attention() -> Remat:
    """Keep the input of a layer and attention's result, (out, lse)."""
    return _named(["attention_out", "attention_lse"], [])


def matmuls() -> Remat:
    """Keep the results of matmuls with weights."""
    return Remat(_policies.dots_with_no_batch_dims_saveable)


def offload_layer() -> Remat:
    """Keep only the input of a layer, in host memory."""
    return _named([], ["layer_input"])


def offload_attention() -> Remat:
    """Keep the input of a layer and attention's out in host memory, and its lse on the device."""
    return _named(["attention_lse"], ["layer_input", "attention_out"])


def tokens(keep: float, offload: float) -> Remat:
    """Treat the results of weight matmuls by token, and the rest as `offload_attention` does.

    The results of the first `keep` of a shard's tokens stay on the device, those of the next `offload` move to the
    host, and those of the other tokens are computed again. MEMO (arXiv 2407.12117) calls `offload` alpha and keeps none
    on the device.

    Args:
      keep, offload: fractions from 0 to 1.
    """
    return _named(["attention_lse", KEPT], ["layer_input", "attention_out", MOVED], keep, offload)


POLICIES = {
    "none": keep_all,
    "layer": layer,
    "attention": attention,
    "matmuls": matmuls,
    "offload_layer": offload_layer,
    "offload_attention": offload_attention,
    "tokens": tokens,
}


def parse(text: str, field: str = "model.remat") -> Remat:
    """The policy that a setting names, "attention" or "tokens(0.25, 0.5)". Raises UserError."""
    make, numbers = parse_call(field, text, POLICIES, zero=True)
    remat = make(*numbers)
    if remat.keep + remat.offload > 1:
        raise UserError(
            f"{field}={text!r}: keep and offload are fractions of the tokens, at most 1 together; tokens(0.25, 0.5) "
            "works."
        )
    return remat


def checkpointed(body, remat: str):
    """body(layer input, ...) under jax.checkpoint with the policy that `remat` names."""
    policy = parse(remat).policy
    if policy is None:
        return body
    return jax.checkpoint(lambda x, *rest: body(checkpoint_name(x, "layer_input"), *rest), policy=policy)


def by_fractions(remat: str, function, x):
    """function(part, name) applied to x BT... in up to three parts along the tokens, the results joined: BT...

    The parts are the tokens that `tokens` keeps, moves and recomputes; `name` is KEPT, MOVED or RECOMPUTED, with which
    `function` must mark (by checkpoint_name) what it computes. Each part is computed by itself, since recomputing some
    rows of one large matmul would recompute them all. A part without tokens is left out.
    """
    *_, keep, offload = parse(remat)
    if keep == offload == 0:
        return function(x, RECOMPUTED)

    def split(x):
        count = x.shape[1]
        ends = 0, round(keep * count), round((keep + offload) * count), count
        parts = zip((KEPT, MOVED, RECOMPUTED), ends, ends[1:], strict=False)
        return {name: x[:, start:end] for name, start, end in parts if start < end}

    results = [function(part, name) for name, part in _on_shards(split, x).items()]
    return _on_shards(lambda results: jnp.concatenate(results, 1), results)


def _on_shards(function, tree):
    """function(tree) on each device's shards, for arrays that are all sharded alike, as are the results."""
    spec = jax.typeof(jax.tree.leaves(tree)[0]).sharding.spec
    return jax.shard_map(function, in_specs=(spec,), out_specs=spec)(tree)
