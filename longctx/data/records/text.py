"""A text in one field, all of which counts in the loss."""

import dataclasses

from longctx.config import DataConfig
from longctx.data.records.record import Content, text_of


@dataclasses.dataclass(frozen=True)
class Text:
    """The field that data.text_field names."""

    field: str

    @classmethod
    def of(cls, config: DataConfig) -> "Text":
        return cls(config.text_field)

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def content(self, record: dict) -> Content:
        return Content(text_of(record, self.field, f"data.text_field={self.field!r}"))
