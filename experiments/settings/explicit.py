"""Settings that were set explicitly, by a config file or on the command line, be it to their default."""

from ml_collections.config_dict import ConfigDict

from experiments.settings import former


class Section(ConfigDict):
    """A group of fields that records in `explicit` the names of those that are set once the group is locked."""

    def __init__(self, *args, **kwargs):
        object.__setattr__(self, "explicit", set())
        super().__init__(*args, **kwargs)

    def __getitem__(self, key):
        if entry := former.entry(key, self._fields):
            return entry.of(super().__getitem__(entry.field))
        return super().__getitem__(former.field(key, self._fields))

    def __contains__(self, key):
        return former.entry(key, self._fields) is not None or super().__contains__(former.field(key, self._fields))

    def get_type(self, key):
        entry = former.entry(key, self._fields)
        return entry.kind if entry else super().get_type(former.field(key, self._fields))

    def __setitem__(self, key, value):
        if entry := former.entry(key, self._fields):
            key, value = entry.field, entry.into(super().__getitem__(entry.field), value)
        key = former.field(key, self._fields)
        super().__setitem__(key, former.VALUES.get((key, value), value) if isinstance(value, str) else value)
        if self.is_locked:
            self.explicit.add(key)

    def update(self, *other, **fields):
        for group in (*other, fields):
            renamed = [name for name in group if name not in self._fields and name in self]
            super().update({name: value for name, value in group.items() if name not in renamed} if renamed else group)
            for name in renamed:
                self[name] = group[name]

    def __setstate__(self, state):
        super().__setstate__(state)
        self.explicit.update(state["explicit"])

    def copy_and_resolve_references(self, visit_map=None):
        copy = super().copy_and_resolve_references(visit_map)
        copy.explicit.update(self.explicit)
        return copy


def explicit(group: ConfigDict, whole: bool = False) -> dict:
    """The fields of a group that were set explicitly, with their values, in nested dicts.

    whole: whether the group itself was set in place of another, and all of its fields with it.
    """
    fields = {}
    for name, value in group.items():
        own = whole or not isinstance(group, Section) or name in group.explicit
        if isinstance(value, ConfigDict):
            if inner := explicit(value, own):
                fields[name] = inner
        elif own or (isinstance(value, tuple) and any(isinstance(x, ConfigDict) and explicit(x) for x in value)):
            fields[name] = value
    return fields
