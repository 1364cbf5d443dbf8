"""Former names of settings. Stored runs, config files and command lines still work with them; a note gives the new one.

No other setting has one of these names, so that one table serves all groups.
"""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Share:
    """A setting that held the share of a generated task, which is an entry such as passkey(0.1) now."""

    task: str
    group, field = "data", "generated"
    kind = float

    @property
    def example(self) -> str:
        return f"{self.task}(0.1)"

    def of(self, entries: tuple[str, ...]) -> float:
        """The share among the entries of data.generated; 0 where the task is not among them."""
        found = [entry for entry in entries if _name(entry) == self.task]
        return float(found[0].partition("(")[2].rstrip(")")) if found else 0.0

    def into(self, entries: tuple[str, ...], share: float) -> tuple[str, ...]:
        """The entries with another share; 0 takes the task out.

        The tasks that had settings come first and in their order, as their documents did: so the run is the same.
        """
        others = [entry for entry in entries if _name(entry) != self.task]
        order = [entry.task for entry in ENTRIES.values() if isinstance(entry, Share)]
        place = lambda entry: order.index(_name(entry)) if _name(entry) in order else len(order)
        return tuple(sorted(others + [f"{self.task}({_digits(share)})"] * (share != 0), key=place))


@dataclasses.dataclass(frozen=True)
class Switch:
    """A setting that was on or off, which is an entry, or none, now."""

    example: str
    group, field = "log", "trackers"
    kind = bool

    def of(self, entries: tuple[str, ...]) -> bool:
        """Whether it is among the entries of log.trackers."""
        return self.example in entries

    def into(self, entries: tuple[str, ...], on: bool) -> tuple[str, ...]:
        """The entries with it or without it."""
        return tuple(entry for entry in entries if entry != self.example) + (self.example,) * bool(on)


# settings that are entries of a tuple now, in the order of the generated documents
ENTRIES = {"passkey_share": Share("passkey"), "copy_share": Share("copying"), "tensorboard": Switch("tensorboard")}


def field(name: str, known) -> str:
    """The present name of a field; `known` holds the fields of its group."""
    new = FIELDS.get(name)
    if new is None or name in known or new not in known:
        return name
    _tell(name, f"the setting {name} is called {new} now")
    return new


def entry(name: str, known) -> Share | Switch | None:
    """What a field is among the entries of a tuple; None for any other field. `known` holds the fields of its group."""
    found = ENTRIES.get(name)
    if found is None or found.field not in known:
        return None
    _tell(name, f"the setting {name} is an entry of {found.group}.{found.field} now, such as {found.example}")
    return found


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
    """A group of stored settings, those that are entries of a tuple now as such."""
    for name, found in ENTRIES.items():
        if name in group:
            field = found.field
            entries = found.into(tuple(group.get(field, ())), group[name])
            group = {other: value for other, value in group.items() if other != name} | {field: entries}
    return group


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
