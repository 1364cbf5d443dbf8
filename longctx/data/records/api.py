"""The forms of records by name: data.records."""

from collections.abc import Mapping

from longctx.config import DataConfig
from longctx.data.records.completion import Completion
from longctx.data.records.messages import Messages
from longctx.data.records.preference import Preference
from longctx.data.records.record import Form
from longctx.data.records.text import Text
from longctx.errors import unknown_name

FORMS: Mapping[str, type[Form]] = {
    "text": Text,
    "messages": Messages,
    "completion": Completion,
    "preference": Preference,
}


def form_of(config: DataConfig) -> Form:
    """The form that data.records names. Raises UserError for one that is not known."""
    if config.records not in FORMS:
        raise unknown_name("data.records", config.records, FORMS)
    return FORMS[config.records].of(config)
