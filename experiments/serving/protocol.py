"""Requests as clients of OpenAI's API send them, checked, and the answers that they expect. Pure functions, no jax.

What would change an answer and is not known here is refused, never ignored.
"""

import dataclasses
import reprlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from longctx.errors import UserError, unknown_name
from longctx.generation.request import Sampling

MOST_STOPS = 16
LEAST_LOGPROB = -9999.0  # in place of -infinity, which JSON does not have

# parameters that change no answer of ours, and those that change none at one of these values
WITHOUT_EFFECT = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
UNSUPPORTED: dict[str, tuple] = {"n": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},)}
ONLY_COMPLETIONS: dict[str, tuple] = {"best_of": (1,), "suffix": ("",)}
ONLY_CHAT: dict[str, tuple] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": (),
    "verbosity": (),
    "prediction": (),
    "audio": (),
    "web_search_options": (),
}
COMMON = {"model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stream", "stream_options"}


class Refusal(Exception):
    """A request that gets an error for an answer.

    Attributes:
      status: of HTTP.
      content: the error as OpenAI's API writes it.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
        kind = "rate_limit_error" if status == 429 else kind
        self.status = status
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request that can be answered.

    Attributes:
      prompts: texts, or rows of token ids; one, the messages' place, for a chat.
      messages: of a chat.
      max_tokens: the most new tokens of each; None is as many as there is room for.
      seed: None is another one each time.
      top: how many of the likeliest tokens are told at each place; None without log-probabilities.
      echo: whether the answer begins with the prompt.
      usage: whether a stream ends with what it used.
    """

    prompts: tuple
    messages: tuple[dict, ...] = ()
    max_tokens: int | None = None
    sampling: Sampling = Sampling()
    seed: int | None = None
    stops: tuple[str, ...] = ()
    top: int | None = None
    echo: bool = False
    stream: bool = False
    usage: bool = False


def completion(body: dict, model: str) -> Ask:
    """The Ask of /v1/completions. Raises Refusal."""
    _check_names(body, COMMON | {"prompt", "echo", "logprobs"}, UNSUPPORTED | ONLY_COMPLETIONS)
    echo = _value(body, "echo", False, bool, "true or false")
    max_tokens = _whole(body, "max_tokens", 16, 0)
    if max_tokens == 0 and not echo:
        raise Refusal(400, "max_tokens=0 gives an empty text; echo=true scores the prompt.", "max_tokens")
    top = _whole(body, "logprobs", None, 0, 5)
    return Ask(_prompts(body), max_tokens=max_tokens, top=top, echo=echo, **_shared(body, model))


def chat(body: dict, model: str) -> Ask:
    """The Ask of /v1/chat/completions. Raises Refusal."""
    own = {"messages", "max_completion_tokens", "logprobs", "top_logprobs"}
    _check_names(body, COMMON | own, UNSUPPORTED | ONLY_CHAT)
    messages = _value(body, "messages", None, list, "a list of messages, each with a role and a content")
    if not messages:
        raise Refusal(400, "messages is missing: a list of messages, each with a role and a content.", "messages")
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    told = _value(body, "logprobs", False, bool, "true or false")
    top = _whole(body, "top_logprobs", 0, 0, 20)
    if top and not told:
        raise Refusal(400, f"top_logprobs={top} needs logprobs=true.", "top_logprobs")
    return Ask(
        (None,),
        tuple(_message(i, message) for i, message in enumerate(messages)),
        max_tokens=_whole(body, name, None, 1),
        top=top if told else None,
        **_shared(body, model),
    )


def _shared(body: dict, model: str) -> dict[str, Any]:
    """The fields of Ask that both kinds of requests have."""
    named = _value(body, "model", None, str, "the name of a model")
    if named is None:
        raise Refusal(400, f"model is missing; this server has {model!r}.", "model")
    if named != model:
        raise Refusal(404, f"model={named!r} is not here; this server has {model!r}.", "model", "model_not_found")
    stream = _value(body, "stream", False, bool, "true or false")
    options = _value(body, "stream_options", {}, dict, "an object such as {'include_usage': true}")
    if options and not stream:
        raise Refusal(400, "stream_options is for stream=true.", "stream_options")
    _check_names(options, {"include_usage"}, {"include_obfuscation": (False,)}, "stream_options.")
    return {
        "sampling": _sampling(body),
        "seed": _whole(body, "seed", None, -(2**63), 2**63 - 1),
        "stops": _stops(body),
        "stream": stream,
        "usage": _value(options, "include_usage", False, bool, "true or false"),
    }


def _check_names(body: dict, known: set[str], unsupported: dict[str, tuple], group: str = "") -> None:
    """Raises Refusal for a parameter that is not known, or that this server cannot follow."""
    for name, value in body.items():
        if name in unsupported and value is not None and value not in unsupported[name]:
            works = " or ".join(map(repr, unsupported[name]))
            hint = f"; {works} works, and so does leaving it out" if works else "; leave it out"
            message = f"{group}{name}={reprlib.repr(value)} is not supported here{hint}."
            raise Refusal(400, message, group + name, "unsupported_parameter")
        if name not in known | WITHOUT_EFFECT | unsupported.keys():
            message = str(unknown_name("parameter", group + name, sorted(group + other for other in known)))
            raise Refusal(400, message, group + name, "unknown_parameter")


def _value(body: dict, name: str, default, kind: type | tuple, words: str):
    """The value of a parameter, or the default where it is null or left out. Raises Refusal for another type."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Refusal(400, f"{name}={reprlib.repr(value)} must be {words}.", name)
    return value


def _whole(body: dict, name: str, default: int | None, least: int, most: int = 2**31 - 1) -> int | None:
    words = f"a whole number from {least} to {most}"
    value = _value(body, name, default, int, words)
    if value is not None and not least <= value <= most:
        raise Refusal(400, f"{name}={value} must be {words}.", name)
    return value


def _sampling(body: dict) -> Sampling:
    """The Sampling; at temperature 0 nothing else of it changes the likeliest token."""
    number = lambda name, default: _value(body, name, default, (int, float), "a number")
    some = dict(top_p=number("top_p", 1.0), top_k=_whole(body, "top_k", 0, 0), min_p=number("min_p", 0.0))
    temperature = number("temperature", 1.0)
    try:
        sampling = Sampling(temperature or 1.0, **some).check()
    except UserError as error:
        raise Refusal(400, str(error), str(error).partition("=")[0]) from error
    return sampling if temperature else Sampling()


def _stops(body: dict) -> tuple[str, ...]:
    stops = _value(body, "stop", [], (str, list), "a text, or a list of texts")
    stops = [stops] if isinstance(stops, str) else stops
    if len(stops) > MOST_STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        words = f"a text, or up to {MOST_STOPS} of them, none of them empty"
        raise Refusal(400, f"stop={reprlib.repr(stops)} must be {words}.", "stop")
    return tuple(stops)


def _prompts(body: dict) -> tuple:
    """The prompts: a text, a list of texts, a row of token ids, or a list of such rows."""
    prompt = body.get("prompt")
    is_row = lambda x: isinstance(x, list) and bool(x) and all(type(token) is int for token in x)
    prompts = [prompt] if isinstance(prompt, str) or is_row(prompt) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(one, str) or is_row(one) for one in prompts):
        words = "a text, a list of texts, a row of token ids, or a list of such rows"
        raise Refusal(400, f"prompt={reprlib.repr(prompt)} must be {words}.", "prompt")
    return tuple(prompts)


def _message(i: int, message) -> dict:
    """A message with its content as one text."""
    where = f"messages[{i}]"
    if not isinstance(message, dict):
        raise Refusal(400, f"{where}={reprlib.repr(message)} must have a role and a content.", where)
    for name in message.keys() - {"role", "content", "name", "refusal"}:
        if message[name]:
            raise Refusal(400, f"{where}.{name} is not supported here.", f"{where}.{name}", "unsupported_parameter")
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(texts) != len(content) or not all(isinstance(text, str) for text in texts):
            raise Refusal(400, f"{where}.content must be a text, or parts of type 'text'.", f"{where}.content")
        content = "".join(texts)
    return {"role": message.get("role"), "content": content}


class Told(NamedTuple):
    """A token of an answer.

    Attributes:
      token: its id.
      offset: the letters of the text before it.
      logprob: in nats; None for the first token of a prompt, and where none were asked for.
      top: (id, logprob) of the likeliest tokens in its place, best first.
    """

    token: int
    offset: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Usage(NamedTuple):
    """Tokens of a request: of its prompts, of these those that were not read again, and new ones."""

    prompt: int
    kept: int
    new: int

    def content(self) -> dict:
        """The entry `usage` of an answer."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.new,
            "total_tokens": self.prompt + self.new,
            "prompt_tokens_details": {"cached_tokens": self.kept},
        }


class Choice(NamedTuple):
    """An answer to one prompt, or a piece of it."""

    index: int
    text: str
    told: tuple[Told, ...] | None
    reason: str | None


class Completions:
    """Answers of /v1/completions.

    ask: the request; model: the name to answer with; spelling: a token -> its bytes, see tokenizers.Tokenizer.
    """

    prefix, whole, piece = "cmpl", "text_completion", "text_completion"

    def __init__(self, ask: Ask, model: str, number: str, spelling: Callable[[int], bytes]):
        self._head = {"id": f"{self.prefix}-{number}", "created": int(time.time()), "model": model}
        self._ask, self._spelling = ask, spelling

    def answer(self, choices: Sequence[Choice], usage: Usage) -> dict:
        """The whole answer."""
        choices = [self._choice(choice) for choice in choices]
        return {**self._head, "object": self.whole, "choices": choices, "usage": usage.content()}

    def begin(self, index: int) -> list[dict]:
        """What a stream says before the first text of an answer."""
        return []

    def chunk(self, choice: Choice) -> dict:
        """A piece of a stream."""
        return self._chunk([self._delta(choice)])

    def end(self, usage: Usage) -> list[dict]:
        """What a stream says after the last text."""
        return [self._chunk([]) | {"usage": usage.content()}] if self._ask.usage else []

    def _chunk(self, choices: list[dict]) -> dict:
        return {**self._head, "object": self.piece, "choices": choices} | ({"usage": None} if self._ask.usage else {})

    def _choice(self, choice: Choice) -> dict:
        logprobs = None if choice.told is None else self._logprobs(choice.told)
        return {"index": choice.index, "text": choice.text, "logprobs": logprobs, "finish_reason": choice.reason}

    _delta = _choice

    def _logprobs(self, told: Sequence[Told]) -> dict:
        name = lambda token: _name(self._spelling(token))

        def top(entry: Told):
            if entry.logprob is None:
                return None
            found = {}
            for token, logprob in (*entry.top[: self._ask.top], (entry.token, entry.logprob)):  # its own always
                found.setdefault(name(token), _number(logprob))
            return found

        return {
            "tokens": [name(entry.token) for entry in told],
            "token_logprobs": [_number(entry.logprob) for entry in told],
            "top_logprobs": [top(entry) for entry in told],
            "text_offset": [entry.offset for entry in told],
        }


class Chat(Completions):
    """Answers of /v1/chat/completions."""

    prefix, whole, piece = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def begin(self, index: int) -> list[dict]:
        delta = {"role": "assistant", "content": ""}
        return [self._chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])]

    def _choice(self, choice: Choice) -> dict:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {"index": choice.index, "message": message, **self._rest(choice)}

    def _delta(self, choice: Choice) -> dict:
        delta = {"content": choice.text} if choice.text or choice.told else {}
        return {"index": choice.index, "delta": delta, **self._rest(choice)}

    def _rest(self, choice: Choice) -> dict:
        logprobs = None if choice.told is None else self._logprobs(choice.told)
        return {"logprobs": logprobs, "finish_reason": choice.reason}

    def _logprobs(self, told: Sequence[Told]) -> dict:
        def entry(token: int, logprob: float) -> dict:
            spelled = self._spelling(token)
            return {"token": spelled.decode(errors="replace"), "logprob": _number(logprob), "bytes": list(spelled)}

        of = lambda one: [entry(*pair) for pair in one.top[: self._ask.top]]
        return {"content": [entry(one.token, one.logprob) | {"top_logprobs": of(one)} for one in told], "refusal": None}


def models(names: Sequence[str], created: int, context: int) -> dict:
    """The answer of /v1/models; context: tokens that a row has room for."""
    owned = {"object": "model", "created": created, "owned_by": "longctx", "max_model_len": context}
    return {"object": "list", "data": [{"id": name, **owned} for name in names]}


def _name(spelled: bytes) -> str:
    """A token's bytes as a text, as OpenAI writes those that are no whole characters: bytes:\\xe2\\x82."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def _number(logprob: float | None) -> float | None:
    return None if logprob is None else max(float(logprob), LEAST_LOGPROB)
