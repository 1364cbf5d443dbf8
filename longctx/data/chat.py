"""Conversations as a model's tokenizer writes them: the chat template in its folder, a Jinja program. Free of jax.

A template is found in chat_template.jinja, chat_template.json or tokenizer_config.json, in this order, as transformers
has it. It is run in a sandbox: it may come from anywhere.
"""

import datetime
import functools
from collections.abc import Sequence
from pathlib import Path

from longctx.data.special_tokens import TOKENIZER_CONFIG, token_text
from longctx.errors import UserError
from longctx.json_files import read_object

FILE, IN_JSON = "chat_template.jinja", "chat_template.json"
ROLES = ("system", "user", "assistant", "tool")

Message = dict[str, str]  # role and content


class ChatTemplate:
    """The template in a folder. `said` is where it stands, for messages."""

    def __init__(self, source: str, said: str, tokens: dict[str, str]):
        self._source, self._said, self._tokens = source, said, tokens

    def render(self, messages: Sequence[Message], ask: bool = True) -> str:
        """The conversation as text. ask: with the beginning of the assistant's turn, which is to be continued.

        Raises UserError for messages that the template does not take, and for a template with an error.
        """
        from jinja2 import TemplateError

        for i, message in enumerate(messages):
            if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
                raise UserError(f"messages[{i}]={message!r} must have a content and a role of {', '.join(ROLES)}.")
        try:
            return _program(self._source).render(messages=messages, add_generation_prompt=ask, **self._tokens)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f"{self._said}, line {line}" if line else self._said
            raise UserError(f"the chat template of {where}: {str(error).splitlines()[0]}") from error


def load(folder) -> ChatTemplate:
    """The template of a tokenizer's folder. Raises UserError where there is none."""
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
    raise UserError(
        f"{folder} has no chat template ({FILE}, or chat_template in {TOKENIZER_CONFIG}): its model was not made for "
        "turns; give it a text to continue."
    )


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

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    environment.filters["tojson"] = _to_json
    return environment.from_string(source)


def _to_json(value, indent: int | None = None) -> str:
    """JSON as transformers writes it in templates: no escapes for HTML or beyond ASCII."""
    import json

    return json.dumps(value, ensure_ascii=False, indent=indent)
