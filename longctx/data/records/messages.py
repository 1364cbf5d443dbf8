"""Conversations, of which the answers count in the loss."""

import dataclasses

from longctx.config import DataConfig
from longctx.data import chat
from longctx.data.records import conversation
from longctx.data.records.record import Bad, Content

FIELDS = ("messages", "conversations")


@dataclasses.dataclass(frozen=True)
class Messages:
    """A list of messages in one of FIELDS, written as the chat template beside data.tokenizer has it.

    The turns of the assistant count, each with the token that ends it; nothing else does. longctx.data.chat.Turns says
    where they begin and end. data.tokenizer="bytes" has no template: there a turn is "role: content" and an empty line,
    which ends an answer and counts with it.
    """

    turns: chat.Turns

    @classmethod
    def of(cls, config: DataConfig) -> "Messages":
        return cls(chat.of(config.tokenizer))

    @property
    def fields(self) -> tuple[str, ...]:
        return FIELDS

    def content(self, record: dict) -> Content:
        for field in FIELDS:
            if record.get(field) is not None:
                return conversation.document(self.turns, conversation.messages(record[field], field))
        raise Bad(f"has no {' or '.join(map(repr, FIELDS))}, the list of messages that data.records='messages' reads")
