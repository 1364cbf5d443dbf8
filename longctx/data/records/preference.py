"""Answers that were preferred to others, which alone count in the loss: longctx has no loss of preference."""

import dataclasses
import functools

from longctx.config import DataConfig
from longctx.data import chat
from longctx.data.records import conversation
from longctx.data.records.record import Bad, Content, text_of

PROMPT, CHOSEN = "prompt", "chosen"


@dataclasses.dataclass(frozen=True)
class Preference:
    """A prompt and the answer to it that was chosen; one that was rejected is not looked at.

    Texts are taken as in records "completion". Lists of messages are written as in records "messages": those of the
    prompt, where it is a list, then those of the chosen answer, which may also hold the whole conversation. Of these
    the last turn counts.
    """

    tokenizer: str

    @classmethod
    def of(cls, config: DataConfig) -> "Preference":
        return cls(config.tokenizer)

    @property
    def fields(self) -> tuple[str, ...]:
        return PROMPT, CHOSEN

    def content(self, record: dict) -> Content:
        prompt, chosen = record.get(PROMPT), record.get(CHOSEN)
        if not isinstance(chosen, (list, tuple)):
            before = text_of(record, PROMPT, repr(PROMPT))
            return conversation.joined(before, text_of(record, CHOSEN, repr(CHOSEN)), CHOSEN)
        messages = conversation.messages(chosen, CHOSEN)
        if isinstance(prompt, (list, tuple)):
            messages = conversation.messages(prompt, PROMPT) + messages
        elif isinstance(prompt, str) and all(message["role"] != "user" for message in messages):
            messages.insert(0, {"role": "user", "content": text_of(record, PROMPT, repr(PROMPT)).decode()})
        if messages[-1]["role"] != "assistant":
            raise Bad(f"does not end with a turn of the assistant in {CHOSEN!r}")
        return conversation.document(self._turns, messages, last=True)

    @functools.cached_property
    def _turns(self) -> chat.Turns:
        """How conversations are written, looked for when there is one: records of texts need no template."""
        return chat.of(self.tokenizer)
