"""Conversations as a model's tokenizer writes them: the chat template in its folder, a Jinja program. Free of jax.

A template is found in chat_template.jinja, chat_template.json or tokenizer_config.json, in this order, as transformers
has it. It is run in a sandbox: it may come from anywhere.

What the assistant wrote stands between {% generation %} and {% endgeneration %} where a template has these tags, which
transformers knows too. Of one without them, it is what a turn of the assistant adds to the conversation before it.
"""

import contextlib
import datetime
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from longctx.data.special_tokens import TOKENIZER_CONFIG, token_text
from longctx.errors import UserError
from longctx.json_files import read_object

FILE, IN_JSON = "chat_template.jinja", "chat_template.json"
ROLES = ("system", "user", "assistant", "tool")
TAG = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
MARKS = "\ufdd0", "\ufdd1"  # around what tags enclose, while it is looked for: noncharacters, that are in no text

Message = dict[str, str]  # role and content, and what else of text a template may look at
Spans = tuple[tuple[int, int], ...]  # of a text: (first character, character after the last)


class Refused(UserError):
    """Messages that a template does not take."""


class Turns(Protocol):
    """A way to write conversations as text."""

    def answers(self, messages: Sequence[Message], last: bool = False) -> tuple[str, Spans]:
        """(the conversation, what of it the assistant is to write: its turns from the first character that it writes to
        the token that ends it; last: that of its last turn alone).

        White space behind the token that ends a turn, such as the line end of "<|im_end|>\\n", is no part of it: a
        model stops before it would write it. Where no token ends a turn, the white space does, and is part of it.
        """
        ...


class ChatTemplate:
    """The template in a folder. `said` is where it stands, for messages."""

    def __init__(self, source: str, said: str, tokens: dict[str, str]):
        self._source, self._said, self._tokens = source, said, tokens

    def check(self) -> None:
        """Raises UserError for a template that is no Jinja program."""
        with self._program():
            pass

    def render(self, messages: Sequence[Message], ask: bool = True) -> str:
        """The conversation as text. ask: with the beginning of the assistant's turn, which is to be continued.

        Raises UserError: Refused for messages that the template does not take, and others for a template that is no
        Jinja program.
        """
        for i, message in enumerate(messages):
            if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
                raise Refused(f"messages[{i}]={message!r} must have a content and a role of {', '.join(ROLES)}.")
        with self._program() as program:
            return program.render(messages=messages, add_generation_prompt=ask, **self._tokens)

    def answers(self, messages: Sequence[Message], last: bool = False) -> tuple[str, Spans]:
        """The text and its spans, see Turns; with tags exactly what these enclose.

        Raises UserError as `render`, and for a template without tags that writes earlier turns anew.
        """
        text = self.render(messages, ask=False)
        if TAG.search(self._source):
            return text, self._enclosed(messages, text)[-1 if last else 0 :]
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"][-1 if last else 0 :]
        return text, tuple(self._added(messages, i, text) for i in turns)

    def _enclosed(self, messages: Sequence[Message], text: str) -> Spans:
        """What tags enclose in the text of the messages."""
        for mark in MARKS:
            if mark in text:
                raise Refused(f"{self._said} has generation tags, and the messages hold U+{ord(mark):X}, no character.")
        with self._program() as program:
            marked = program.render(messages=messages, add_generation_prompt=False, marks=MARKS, **self._tokens)
        pieces = re.split("([" + "".join(MARKS) + "])", marked)
        if "".join(pieces[::2]) != text or pieces[1::2] != [*MARKS] * (len(pieces) // 4):
            raise UserError(
                f"the chat template of {self._said} changes, or nests, what stands in its generation tags; tags around "
                "what is written as it is, or data.records='completion' with finished text, work."
            )
        ends = [0]
        for piece in pieces[::2]:
            ends.append(ends[-1] + len(piece))
        return tuple(zip(ends[1:-1:2], ends[2::2], strict=True))

    def _added(self, messages: Sequence[Message], turn: int, text: str) -> tuple[int, int]:
        """What a turn of the assistant adds to a conversation whose whole text is given."""
        before, after = self.render(messages[:turn], ask=True), self.render(messages[: turn + 1], ask=False)
        if not (text.startswith(after) and after.startswith(before)):
            raise UserError(
                f"the chat template of {self._said} writes messages[{turn}] in another way than it asks for it, or "
                "when others follow, so that where the answer lies is not known; {% generation %} ... "
                "{% endgeneration %} around answers in it, or data.records='completion' with finished text, work."
            )
        added = after[len(before) :]
        bare = added.rstrip()
        ended = not bare.endswith(messages[turn]["content"].rstrip())
        return len(before), len(before) + len(bare if ended else added)

    @contextlib.contextmanager
    def _program(self):
        """The program, for a context in which its errors become a UserError that names its file."""
        from jinja2 import TemplateError, TemplateSyntaxError

        try:
            yield _program(self._source)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f"{self._said}, line {line}" if line else self._said
            kind = UserError if isinstance(error, TemplateSyntaxError) else Refused
            raise kind(f"the chat template of {where}: {(str(error).splitlines() or ['refused'])[0]}") from error


class PlainTurns:
    """Turns as "role: content" and an empty line, for models of bytes, which have no template. The empty line ends an
    answer."""

    def answers(self, messages: Sequence[Message], last: bool = False) -> tuple[str, Spans]:
        """The text and its spans, see Turns."""
        text, spans = "", []
        for message in messages:
            start = len(text) + len(message["role"]) + 2
            text += f"{message['role']}: {message['content']}\n\n"
            spans += [(start, len(text))] if message["role"] == "assistant" else []
        return text, tuple(spans[-1 if last else 0 :])


def of(tokenizer: str) -> Turns:
    """How a model with this data.tokenizer writes conversations. Raises UserError where no template says so."""
    if tokenizer == "bytes":
        return PlainTurns()
    path = Path(tokenizer).expanduser()
    template = find(path.parent if path.is_file() else path)
    if template is None:
        raise UserError(
            f"data.tokenizer={tokenizer!r} has no chat template beside it ({FILE}, or chat_template in "
            f"{TOKENIZER_CONFIG}), which conversations need; data.records='completion' takes finished text."
        )
    template.check()
    return template


def load(folder) -> ChatTemplate:
    """The template of a tokenizer's folder. Raises UserError where there is none."""
    if (template := find(folder)) is not None:
        return template
    raise UserError(
        f"{folder} has no chat template ({FILE}, or chat_template in {TOKENIZER_CONFIG}): its model was not made for "
        "turns; give it a text to continue."
    )


def find(folder) -> ChatTemplate | None:
    """The template of a tokenizer's folder, or None."""
    folder = Path(folder)
    config = read_object(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    texts = {f"{role}_token": token_text(config, role, TOKENIZER_CONFIG) for role in ("bos", "eos", "pad", "unk")}
    tokens = {name: text for name, text in texts.items() if text is not None}
    if (folder / FILE).is_file():
        return ChatTemplate((folder / FILE).read_text(encoding="utf-8"), str(folder / FILE), tokens)
    in_json = read_object(folder / IN_JSON) if (folder / IN_JSON).is_file() else {}
    for content, name in ((in_json, IN_JSON), (config, TOKENIZER_CONFIG)):
        if (found := _default(content.get("chat_template"))) is not None:
            return ChatTemplate(found, str(folder / name), tokens)
    return None


def _default(template) -> str | None:
    """The template: a text, or the one called "default" of a list."""
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


@functools.lru_cache(maxsize=8)
def _program(source: str):
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message):
        raise TemplateError(message)

    extensions = [loopcontrols, _generation()]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    environment.filters["tojson"] = _to_json
    return environment.from_string(source)


def _generation():
    """The extension of Jinja for the tags around answers: they write nothing, or `marks` where the template is given
    some."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("marked", [nodes.Name("marks", "load")])
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def marked(self, marks, caller):
            return marks[0] + caller() + marks[1] if marks else caller()

    return Generation


def _to_json(value, indent: int | None = None) -> str:
    """JSON as transformers writes it in templates: no escapes for HTML or beyond ASCII."""
    import json

    return json.dumps(value, ensure_ascii=False, indent=indent)
