"""Sources in files that the tests write."""

import pytest

from longctx.config import DataConfig
from longctx.data import sources
from longctx.errors import UserError


def load(path, **kwargs) -> sources.Corpus:
    """All documents held out, unless told otherwise."""
    return sources.load(DataConfig(path=str(path), **{"holdout": 1.0, **kwargs}))


def texts(path, **kwargs) -> dict[str, bytes]:
    return {document.name: document.text for document in load(path, **kwargs).held_out}


def ids(path, **kwargs) -> dict[str, list[int]]:
    return {document.name: document.ids.tolist() for document in load(path, **kwargs).held_out}


def message(path, **kwargs) -> str:
    """The error for a source: one line."""
    with pytest.raises(UserError) as error:
        load(path, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def note(path, **kwargs) -> str:
    return " ".join(load(path, bad="skip", **kwargs).notes)
