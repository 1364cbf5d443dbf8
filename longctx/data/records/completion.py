"""Finished text with an answer behind it, which alone counts in the loss."""

import dataclasses

from longctx.config import DataConfig
from longctx.data.records.conversation import joined
from longctx.data.records.record import Content, text_of

PROMPT, COMPLETION = "prompt", "completion"
INSTRUCTION, INPUT, OUTPUT = "instruction", "input", "output"
BLANK = b"\n\n"


@dataclasses.dataclass(frozen=True)
class Completion:
    """A prompt and a completion, one directly behind the other; or an instruction, perhaps an input, and an output,
    with empty lines between (the fields of Alpaca's records, without its sentences around them).

    The completion counts, and the end of the document behind it. A token that holds the end of the prompt and the
    beginning of the completion does not.
    """

    @classmethod
    def of(cls, config: DataConfig) -> "Completion":
        return cls()

    @property
    def fields(self) -> tuple[str, ...]:
        return PROMPT, COMPLETION, INSTRUCTION, INPUT, OUTPUT

    def content(self, record: dict) -> Content:
        if record.get(INSTRUCTION) is None or record.get(PROMPT) is not None:
            before = text_of(record, PROMPT, repr(PROMPT))
            return joined(before, text_of(record, COMPLETION, repr(COMPLETION)), COMPLETION)
        parts = [text_of(record, name, repr(name)) + BLANK for name in (INSTRUCTION, INPUT) if record.get(name)]
        return joined(b"".join(parts), text_of(record, OUTPUT, repr(OUTPUT)), OUTPUT)
