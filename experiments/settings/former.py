"""Former names of settings. Stored runs, config files and command lines still work with them; a note gives the new one.

No other setting has one of these names, so that one table serves all groups.
"""

import decimal
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
    "keys": "key_tokens",  # a ConfigDict has methods of these two names, which a command line would set
    "values": "value_tokens",
    "fillers": "filler_tokens",
}
VALUES = {("kernel", "mosaic"): "mosaic_gpu"}
_noted = set()  # former names of which a note was printed
# settings of data that held the share of a generated task, in the order of their documents
SHARES = {"passkey_share": "passkey", "copy_share": "copying"}
GENERATED = "generated"


def field(name: str, known) -> str:
    """The present name of a field; `known` holds the fields of its group."""
    new = FIELDS.get(name)
    if new is None or name in known or new not in known:
        return name
    _tell(name, f"the setting {name} is called {new} now")
    return new


def task(name: str, known) -> str | None:
    """The generated task whose share a field held; None for any other field. `known` holds the fields of its group."""
    if name not in SHARES or GENERATED not in known:
        return None
    _tell(name, f"the setting {name} is an entry of data.generated now, such as {SHARES[name]}(0.1)")
    return SHARES[name]


def share_of(entries: tuple[str, ...], task: str) -> float:
    """The share of a generated task among the entries of data.generated; 0 where it is not among them."""
    found = [entry for entry in entries if _name(entry) == task]
    return float(found[0].partition("(")[2].rstrip(")")) if found else 0.0


def with_share(entries: tuple[str, ...], task: str, share: float) -> tuple[str, ...]:
    """The entries of data.generated with another share of a task of SHARES; 0 takes it out.

    The tasks of SHARES come first and in that order, as their documents did: so the run is the same.
    """
    others = [entry for entry in entries if _name(entry) != task]
    order = list(SHARES.values())
    place = lambda entry: order.index(_name(entry)) if _name(entry) in order else len(order)
    return tuple(sorted(others + [f"{task}({_digits(share)})"] * (share != 0), key=place))


def renamed(tree):
    """Stored settings, nested dicts and tuples, with present names and values."""
    if isinstance(tree, tuple | list):
        return type(tree)(renamed(item) for item in tree)
    if not isinstance(tree, dict):
        return tree
    return _with_entries(
        {
            FIELDS.get(name, name): VALUES.get((name, value), value) if isinstance(value, str) else renamed(value)
            for name, value in tree.items()
        }
    )


def _with_entries(group: dict) -> dict:
    """A group of stored settings, the shares of generated tasks in it as entries of data.generated."""
    shares = {name: group[name] for name in SHARES if name in group}
    if not shares:
        return group
    entries = tuple(group.get(GENERATED, ()))
    for name, share in shares.items():
        entries = with_share(entries, SHARES[name], share)
    return {name: value for name, value in group.items() if name not in SHARES} | {GENERATED: entries}


def _name(entry: str) -> str:
    return entry.partition("(")[0].strip()


def _digits(share) -> str:
    """A number in plain digits, which read back are the same number: 1e-05 is 0.00001."""
    return format(decimal.Decimal(repr(share)), "f") if isinstance(share, int | float) else str(share)


def _tell(name: str, text: str) -> None:
    """Says a note on stderr, once for each former name."""
    if name not in _noted:
        _noted.add(name)
        print(f"note: {text}", file=sys.stderr)
