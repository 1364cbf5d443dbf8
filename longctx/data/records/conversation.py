"""Conversations in records: their messages, in the two forms that are common, and the document that they make.

OpenAI's form is {"role": user, "content": ...}, ShareGPT's {"from": human, "value": ...}. The text of a special token
in a message is that token, as in transformers.
"""

import reprlib
from collections.abc import Iterator

from longctx.data.chat import ROLES, Message, Refused, Spans, Turns
from longctx.data.records.record import Bad, Content, text_of

OPENAI, SHAREGPT = ("role", "content"), ("from", "value")
THOUGHT = "</think>"  # ends what a template may leave out of an answer
NAMES = {role: role for role in ROLES} | {"human": "user", "gpt": "assistant"}


def messages(value, field: str) -> list[Message]:
    """The messages in a field. Raises Bad for what are none, and for an answer without text."""
    if not isinstance(value, (list, tuple)) or not value:
        raise Bad(f"has no list of messages in {field!r}")
    return [_message(one, f"{field}[{i}]") for i, one in enumerate(value)]


def _message(one, where: str) -> Message:
    if not isinstance(one, dict):
        raise Bad(f"has {reprlib.repr(one)} in {where}, which is no message")
    if one.get("tool_calls"):
        raise Bad(f"has tool_calls in {where}, which are not read; the text of the call as its content works")
    by, holds = SHAREGPT if SHAREGPT[0] in one else OPENAI
    role = NAMES.get(one[by]) if isinstance(one.get(by), str) else None
    if role is None:
        raise Bad(f"has {by}={reprlib.repr(one.get(by))} in {where}; known are {', '.join(NAMES)}")
    others = {key: text for key, text in one.items() if isinstance(text, str) and key not in (*OPENAI, *SHAREGPT)}
    content = text_of(one, holds, f"{where}.{holds}").decode()
    if role == "assistant" and not content.strip():
        raise Bad(f"has an empty answer in {where}")
    return others | {"role": role, "content": content}


def document(turns: Turns, conversation: list[Message], last: bool = False) -> Content:
    """The conversation as a document in which its answers count, or the last one alone. Raises Bad."""
    if all(message["role"] != "assistant" for message in conversation):
        raise Bad("has no turn of the assistant")
    try:
        text, spans = turns.answers(conversation, last)
    except Refused as why:
        raise Bad(f"is refused: {str(why).rstrip('.')}") from why
    if not spans:
        raise Bad("has no answer between the generation tags of the chat template")
    answers = [message["content"] for message in conversation if message["role"] == "assistant"][-1 if last else 0 :]
    for answer in answers:
        if answer.split(THOUGHT)[-1].strip() not in text:  # templates for pictures pass over what is no list of parts
            raise Bad(f"has the answer {reprlib.repr(answer)}, which the chat template leaves out or changes")
    return Content(text.encode(), tuple(in_bytes(text, spans)), special=True)


def in_bytes(text: str, spans: Spans) -> Iterator[tuple[int, int]]:
    """The spans of characters, which are in order, as spans of bytes of UTF-8."""
    last, at = 0, 0
    for first, end in spans:
        start = at + len(text[last:first].encode())
        last, at = end, start + len(text[first:end].encode())
        yield start, at


def joined(before: bytes, answer: bytes, field: str) -> Content:
    """Finished text, as a document of which the answer, of a field, alone counts. Raises Bad for an empty one."""
    if not answer.strip():
        raise Bad(f"has an empty answer in {field!r}")
    return Content(before + answer, ((len(before), len(before) + len(answer)),))
