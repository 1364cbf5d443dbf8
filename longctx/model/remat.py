"""What a layer keeps for its backward, by name. To add a policy: a line here."""
import jax
from jax.ad_checkpoint import checkpoint_name

_policies = jax.checkpoint_policies


def _with_host(kept: list[str], moved: list[str]):
    """Keep the arrays of the first names on the device, and those of the second in its host's memory."""
    return _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=kept, names_which_can_be_offloaded=moved,
        offload_src="device", offload_dst="pinned_host")


POLICIES = {
    "none": None,                                                                    # keep all, compute nothing twice
    "layer": _policies.nothing_saveable,                                             # keep a layer's input only
    "attention": _policies.save_only_these_names("attention_out", "attention_lse"),  # ... and attention's result
    "offload_layer": _with_host([], ["layer_input"]),
    "offload_attention": _with_host(["attention_lse"], ["layer_input", "attention_out"]),
    "matmuls": _policies.dots_with_no_batch_dims_saveable,                           # keep what weight matmuls give
}


def checkpointed(body, name: str):
    """`body`, of a layer's input and more, under jax.checkpoint with the policy called `name`."""
    if POLICIES[name] is None:
        return body
    return jax.checkpoint(lambda x, *rest: body(checkpoint_name(x, "layer_input"), *rest), policy=POLICIES[name])
