"""Former names of settings. Stored runs, config files and command lines still work with them; a note gives the new one.

No other setting has one of these names, so that one table serves all groups.
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
_noted = set()  # former names of which a note was printed


def field(name: str, known) -> str:
    """The present name of a field; `known` holds the fields of its group."""
    new = FIELDS.get(name)
    if new is None or name in known or new not in known:
        return name
    if name not in _noted:
        _noted.add(name)
        print(f"note: the setting {name} is called {new} now", file=sys.stderr)
    return new


def renamed(tree):
    """Stored settings, nested dicts and tuples, with present names and values."""
    if isinstance(tree, tuple | list):
        return type(tree)(renamed(item) for item in tree)
    if not isinstance(tree, dict):
        return tree
    return {
        FIELDS.get(name, name): VALUES.get((name, value), value) if isinstance(value, str) else renamed(value)
        for name, value in tree.items()
    }
