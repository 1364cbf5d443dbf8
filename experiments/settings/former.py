"""Names that settings had before: stored runs, config files and command lines with them still work, and a note is said.

The names are used by no other setting, so one table does for all groups.
"""

import sys

FIELDS = {
    "embed": "d_model",
    "mlp": "mlp_dim",
    "expert_mlp": "expert_mlp_dim",
    "key_heads": "kv_heads",
    "head_size": "head_dim",
    "temperature": "query_scale",
    "base": "theta",
    "rotary_share": "rotary_fraction",
    "grads_dtype": "kv_grads_dtype",
    "chunk": "chunk_tokens",
    "every": "residual_every",
    "clip": "clip_mode",
}
VALUES = {("kernel", "mosaic"): "mosaic_gpu"}
_told = set()


def field(name: str, known) -> str:
    """The name of a field now; `known` holds the fields of its group."""
    new = FIELDS.get(name)
    if new is None or name in known or new not in known:
        return name
    if name not in _told:
        _told.add(name)
        print(f"note: the setting {name} is called {new} now", file=sys.stderr)
    return new


def renamed(tree):
    """Nested dicts and tuples of stored settings, with the names and values of now."""
    if isinstance(tree, tuple | list):
        return type(tree)(renamed(one) for one in tree)
    if not isinstance(tree, dict):
        return tree
    return {
        FIELDS.get(name, name): VALUES.get((name, value), value) if isinstance(value, str) else renamed(value)
        for name, value in tree.items()
    }
