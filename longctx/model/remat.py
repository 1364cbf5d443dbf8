"""What a layer keeps for its backward, by name. To add a policy: a line here."""
import jax

_policies = jax.checkpoint_policies

POLICIES = {
    "none": None,                                                                    # keep all, compute nothing twice
    "layer": _policies.nothing_saveable,                                             # keep a layer's input only
    "attention": _policies.save_only_these_names("attention_out", "attention_lse"),  # ... and attention's result
    "matmuls": _policies.dots_with_no_batch_dims_saveable,                           # keep what weight matmuls give
}


def checkpointed(body, name: str):
    """`body` under jax.checkpoint with the policy called `name`."""
    return body if POLICIES[name] is None else jax.checkpoint(body, policy=POLICIES[name])
