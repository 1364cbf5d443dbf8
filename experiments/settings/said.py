"""Which settings were said: by a config file or on the command line, to whatever value, the default too."""

from ml_collections.config_dict import ConfigDict

from experiments.settings import former


class Section(ConfigDict):
    """A group of fields that knows which of them were said: set after the group was complete and locked, by a config
    file or on the command line, to whatever value."""

    def __init__(self, *args, **kwargs):
        object.__setattr__(self, "said", set())
        super().__init__(*args, **kwargs)

    def __getitem__(self, key):
        if task := former.task(key, self._fields):
            return former.share_of(super().__getitem__(former.GENERATED), task)
        return super().__getitem__(former.field(key, self._fields))

    def __contains__(self, key):
        return former.task(key, self._fields) is not None or super().__contains__(former.field(key, self._fields))

    def get_type(self, key):
        return float if former.task(key, self._fields) else super().get_type(former.field(key, self._fields))

    def __setitem__(self, key, value):
        if task := former.task(key, self._fields):
            key, value = former.GENERATED, former.with_share(super().__getitem__(former.GENERATED), task, value)
        key = former.field(key, self._fields)
        super().__setitem__(key, former.VALUES.get((key, value), value) if isinstance(value, str) else value)
        if self.is_locked:
            self.said.add(key)

    def update(self, *other, **fields):
        for group in (*other, fields):
            renamed = [name for name in group if name not in self._fields and name in self]
            super().update({name: value for name, value in group.items() if name not in renamed} if renamed else group)
            for name in renamed:
                self[name] = group[name]

    def __setstate__(self, state):
        super().__setstate__(state)
        self.said.update(state["said"])

    def copy_and_resolve_references(self, visit_map=None):
        copy = super().copy_and_resolve_references(visit_map)
        copy.said.update(self.said)
        return copy


def said(group: ConfigDict, whole: bool = False) -> dict:
    """The fields of a group that were said, with their values, in nested dicts.

    whole: all of it was, as it was set in place of another.
    """
    found = {}
    for name, value in group.items():
        own = whole or not isinstance(group, Section) or name in group.said
        if isinstance(value, ConfigDict):
            if inner := said(value, own):
                found[name] = inner
        elif own or (isinstance(value, tuple) and any(isinstance(one, ConfigDict) and said(one) for one in value)):
            found[name] = value
    return found
