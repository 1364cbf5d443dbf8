"""What a layer keeps for its backward, by name. To add a policy: a line in POLICIES."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from longctx.errors import UserError
from longctx.parsing import parse_call

_policies = jax.checkpoint_policies
KEPT, MOVED, RECOMPUTED = "tokens_kept", "tokens_moved", "tokens_recomputed"  # see by_shares


class Remat(NamedTuple):
    """policy: of jax.checkpoint; None: keep all. kept, moved: names of arrays that it keeps on the device, and in its
    host's memory. keep, offload: shares of a shard's tokens, as for `tokens`."""

    policy: Callable | None
    kept: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    keep: float = 0.0
    offload: float = 0.0

    def keeps(self, name: str) -> bool:
        """Whether the backward finds the array of that name in either memory."""
        return self.policy is None or name in self.kept + self.moved


def _named(kept: list[str], moved: list[str], keep: float = 0.0, offload: float = 0.0) -> Remat:
    """Keep the arrays of the first names on the device, and those of the second in its host's memory."""
    policy = _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=kept,
        names_which_can_be_offloaded=moved,
        offload_src="device",
        offload_dst="pinned_host",
    )
    return Remat(policy, tuple(kept), tuple(moved), keep, offload)


def tokens(keep: float, offload: float) -> Remat:
    """ "offload_attention", and of what weight matmuls give, which is most of the rest: that of the first `keep` of a
    shard's tokens is kept on the device, that of the next `offload` moved to the host; the others compute it again.

    MEMO (arXiv 2407.12117), whose alpha is `offload` and which keeps none on the device.
    """
    return _named(["attention_lse", KEPT], ["layer_input", "attention_out", MOVED], keep, offload)


POLICIES = {
    "none": lambda: Remat(None),  # keep all, compute nothing twice
    "layer": lambda: Remat(_policies.nothing_saveable),  # keep a layer's input only
    "attention": lambda: _named(["attention_out", "attention_lse"], []),  # ... and attention's result
    "offload_layer": lambda: _named([], ["layer_input"]),
    "offload_attention": lambda: _named(["attention_lse"], ["layer_input", "attention_out"]),
    "tokens": tokens,
    "matmuls": lambda: Remat(_policies.dots_with_no_batch_dims_saveable),  # keep what weight matmuls give
}


def parse(text: str, field: str = "model.remat") -> Remat:
    """What a setting such as "attention" or "tokens(0.25, 0.5)" stands for. Raises UserError."""
    make, numbers = parse_call(field, text, POLICIES, zero=True)
    remat = make(*numbers)
    if remat.keep + remat.offload > 1:
        raise UserError(
            f"{field}={text!r}: keep and offload are shares of the tokens, at most 1 together; tokens(0.25, 0.5) works."
        )
    return remat


def checkpointed(body, remat: str):
    """`body`, of a layer's input and more, under jax.checkpoint with the policy that `remat` names."""
    policy = parse(remat).policy
    if policy is None:
        return body
    return jax.checkpoint(lambda x, *rest: body(checkpoint_name(x, "layer_input"), *rest), policy=policy)


def by_shares(remat: str, function, x):
    """function(part, share) of the parts of x BT... whose tokens are KEPT, MOVED and RECOMPUTED, joined: BT...

    share: the name that `function` gives, with checkpoint_name, to what shall be kept, moved or recomputed. Each part
    is computed by itself, for to compute some rows of one large matmul again is to compute all of them. Parts are whole
    tokens of each row of a shard; one without any is left out.
    """
    *_, keep, offload = parse(remat)
    if keep == offload == 0:
        return function(x, RECOMPUTED)

    def cut(x):
        count = x.shape[1]
        ends = 0, round(keep * count), round((keep + offload) * count), count
        parts = zip((KEPT, MOVED, RECOMPUTED), ends, ends[1:], strict=False)
        return {share: x[:, start:end] for share, start, end in parts if start < end}

    results = [function(part, share) for share, part in _on_shards(cut, x).items()]
    return _on_shards(lambda results: jnp.concatenate(results, 1), results)


def _on_shards(function, tree):
    """function of each shard of arrays that are cut alike, whose results are cut so too."""
    spec = jax.typeof(jax.tree.leaves(tree)[0]).sharding.spec
    return jax.shard_map(function, in_specs=(spec,), out_specs=spec)(tree)
