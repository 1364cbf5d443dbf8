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
        return super().__getitem__(former.field(key, self._fields))

    def __contains__(self, key):
        return super().__contains__(former.field(key, self._fields))

    def get_type(self, key):
        return super().get_type(former.field(key, self._fields))

    def update(self, *other, **kwargs):
        for given in (*other, kwargs):
            super().update({former.field(key, self._fields): value for key, value in given.items()})

    def __setitem__(self, key, value):
        key = former.field(key, self._fields)
        super().__setitem__(key, former.VALUES.get((key, value), value) if isinstance(value, str) else value)
        if self.is_locked:
            self.said.add(key)

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
