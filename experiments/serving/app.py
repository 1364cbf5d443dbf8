"""The routes: requests in, jobs to the engine, answers out, whole or as a stream of server-sent events."""

import asyncio
import contextlib
import json
import secrets
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from experiments.run.sources import Source
from experiments.serving import protocol
from experiments.serving.engine import Engine
from experiments.serving.job import Job, Piece, Read, Wish
from experiments.serving.protocol import Ask, Choice, Refusal, Told, Usage
from longctx.data import chat
from longctx.errors import UserError
from longctx.generation.request import token_ids
from longctx.generation.text import Pieces

GONE = 499  # the status, which nobody sees, where the client has left


class Locked:
    """A tokenizer that several threads may call, one at a time."""

    def __init__(self, tokenizer):
        self._tokenizer, self._lock = tokenizer, threading.Lock()

    def __getattr__(self, name: str):
        value = getattr(self._tokenizer, name)
        if not callable(value):
            return value

        def alone(*given, **named):
            with self._lock:
                return value(*given, **named)

        return alone


class Served(NamedTuple):
    """What is served.

    Attributes:
      name: the model's in requests and answers.
      source: the model; its tokenizer is Locked.
      ends: the tokens that end an answer.
      template: how a chat is written; None where the model was not made for turns, for the `reason` that is said.
      context: tokens that a row has room for.
    """

    name: str
    source: Source
    ends: tuple[int, ...]
    template: chat.ChatTemplate | None
    reason: str
    context: int
    engine: Engine


def make(served: Served) -> Starlette:
    """The application."""
    created = int(time.time())

    async def models(request: Request) -> Response:
        content = protocol.models([served.name], created, served.context)
        name = request.path_params.get("name")
        if name is None:
            return JSONResponse(content)
        if name != served.name:
            message = f"model={name!r} is not here; this server has {served.name!r}."
            raise Refusal(404, message, "model", "model_not_found")
        return JSONResponse(content["data"][0])

    async def completions(request: Request) -> Response:
        ask = protocol.completion(await _body(request, served.engine.limits.body), served.name)
        return await Conversation(served, ask, protocol.Completions).answer(request)

    async def chats(request: Request) -> Response:
        ask = protocol.chat(await _body(request, served.engine.limits.body), served.name)
        return await Conversation(served, ask, protocol.Chat).answer(request)

    routes = [
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", models),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chats, methods=["POST"]),
    ]
    handlers = {Refusal: _refused, HTTPException: _no_route, Exception: _failed}
    return Starlette(routes=routes, exception_handlers=handlers)


async def _refused(request: Request, refusal: Refusal) -> Response:
    # clients ask again after most errors of 500 and above: what took too long once will do so again
    headers = {"x-should-retry": "false"} if refusal.status >= 500 else {}
    return JSONResponse(refusal.content, refusal.status, headers)


async def _no_route(request: Request, error: HTTPException) -> Response:
    known = "GET /v1/models, POST /v1/completions, POST /v1/chat/completions"
    message = f"{request.method} {request.url.path}: {error.detail}; there are {known}."
    return JSONResponse(Refusal(error.status_code, message).content, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    refusal = Refusal(500, "the server failed; its terminal says how.")
    return await _refused(request, refusal)


async def _body(request: Request, most: int) -> dict:
    """The object in a request. Raises Refusal for one that is too large, or holds none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page in a browser can send others without being asked
        raise Refusal(415, f"content-type={kind!r} must be application/json.")
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > most:
            raise Refusal(413, f"the request has more than {most} bytes, the most that this server takes.")
    try:
        body = json.loads(found)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the request is no JSON: {error}.") from error
    if not isinstance(body, dict):
        raise Refusal(400, 'the request must be a JSON object, such as {"model": ..., "prompt": ...}.')
    return body


class Conversation:
    """A request from its Ask to its answer."""

    def __init__(self, served: Served, ask: Ask, form: type[protocol.Completions]):
        self._served, self._ask = served, ask
        self._tokenizer = served.source.tokenizer
        self._form = form(ask, served.name, uuid.uuid4().hex, self._tokenizer.spelling)
        self._events: asyncio.Queue = asyncio.Queue()
        self._jobs: list[Job] = []

    async def answer(self, request: Request) -> Response:
        """The answer, or its beginning. Raises Refusal."""
        self._jobs = await run_in_threadpool(self._made, asyncio.get_running_loop())
        with contextlib.ExitStack() as unless_it_streams:
            unless_it_streams.callback(self._leave)
            self._served.engine.submit(self._jobs)
            if not self._ask.stream:
                return await self._unless_gone(request, self._whole())
            choices = self._choices()
            first = await self._unless_gone(request, anext(choices))
            if isinstance(first, Response):
                return first
            unless_it_streams.pop_all()
        return StreamingResponse(self._stream(first, choices), media_type="text/event-stream")

    async def _unless_gone(self, request: Request, answer):
        """What `answer` gives, or an empty response as soon as the client has left."""
        gone, found = asyncio.ensure_future(_gone(request)), asyncio.ensure_future(answer)
        try:
            await asyncio.wait({gone, found}, return_when=asyncio.FIRST_COMPLETED)
            if found.done():
                return found.result()
            return Response(status_code=GONE)
        finally:
            for task in (gone, found):
                task.cancel()

    async def _whole(self) -> Response:
        texts, told, reasons = ([found() for _ in self._jobs] for found in (str, list, str))
        async for choice in self._choices():
            texts[choice.index] += choice.text
            told[choice.index] += choice.told or ()
            reasons[choice.index] = choice.reason
        parts = enumerate(zip(texts, told, reasons, strict=True))
        known = self._ask.top is not None
        choices = [Choice(i, text, tuple(of) if known else None, reason) for i, (text, of, reason) in parts]
        return JSONResponse(self._form.answer(choices, self._usage()))

    async def _stream(self, first: Choice, choices: AsyncIterator[Choice]) -> AsyncIterator[bytes]:
        """Server-sent events of an answer; begun: the choices that were told of."""
        begun = set()

        def events(choice: Choice):
            if choice.index not in begun:
                begun.add(choice.index)
                yield from self._form.begin(choice.index)
            yield self._form.chunk(choice)

        try:
            for event in events(first):
                yield _event(event)
            async for choice in choices:
                for event in events(choice):
                    yield _event(event)
            for event in self._form.end(self._usage()):
                yield _event(event)
            yield b"data: [DONE]\n\n"
        except Refusal as refusal:
            yield _event(refusal.content)
        finally:
            self._leave()

    async def _choices(self) -> AsyncIterator[Choice]:
        """The answers of all jobs, piece by piece as they come; offsets are those of text behind an echo."""
        before, open_jobs = [0] * len(self._jobs), len(self._jobs)
        while open_jobs:
            index, event = await self._events.get()
            if isinstance(event, Refusal):
                raise event
            if isinstance(event, Read):
                if self._ask.echo:
                    text, told = await run_in_threadpool(self._echo, index, event.scores)
                    before[index] = len(text)
                    yield Choice(index, text, told, None)
                continue
            open_jobs -= event.reason is not None
            yield self._choice(index, event, before[index])

    def _choice(self, index: int, piece: Piece, before: int) -> Choice:
        known = self._ask.top is not None
        told = tuple(one._replace(offset=one.offset + before) for one in piece.told) if known else None
        return Choice(index, piece.text, told, piece.reason)

    def _echo(self, index: int, scores) -> tuple[str, tuple[Told, ...] | None]:
        """The text of a prompt, and its tokens if they are asked for."""
        prompt, given = self._jobs[index].wish.prompt.tolist(), self._ask.prompts[index]
        pieces, told, text = Pieces(self._tokenizer, []), [], ""
        if self._ask.top is None:
            return given if isinstance(given, str) else self._tokenizer.decode(prompt), None
        for i, token in enumerate(prompt):
            own = (None, ()) if i == 0 else _scored(scores, i - 1, self._ask.top)
            told.append(Told(token, len(text), *own))
            text += pieces.add(token)
        text += pieces.end()
        return given if isinstance(given, str) else text, tuple(told)

    def _made(self, loop: asyncio.AbstractEventLoop) -> list[Job]:
        """The jobs, one for each prompt. Raises Refusal for a prompt that cannot be continued."""
        served, ask, jobs = self._served, self._ask, []
        seed = secrets.randbits(32) if ask.seed is None else ask.seed
        for i, given in enumerate(ask.prompts):
            prompt = self._tokens(i, given)
            room = served.context - len(prompt)
            most = room if ask.max_tokens is None else ask.max_tokens
            if most > room or (ask.max_tokens is None and room < 1):
                asked = f"{most} new ones" if ask.max_tokens is not None else "an answer"
                raise Refusal(
                    400,
                    f"the prompt has {len(prompt)} tokens; with {asked} that is more than the {served.context} that a "
                    "row has room for here.",
                    "messages" if ask.messages else "prompt",
                    "context_length_exceeded",
                )
            known = ask.top is not None
            wish = Wish(prompt, most, ask.sampling, seed, i, ask.stops, known, known and ask.echo)
            seconds = served.engine.limits.seconds
            jobs.append(Job(wish, self._deliver(loop, i), seconds, self._tokenizer, served.ends))
        return jobs

    def _tokens(self, i: int, given) -> np.ndarray:
        """The tokens of the prompt of that number. Raises Refusal."""
        source, param = self._served.source, "messages" if self._ask.messages else "prompt"
        name = param if len(self._ask.prompts) == 1 else f"{param}[{i}]"
        try:
            if self._ask.messages:
                if self._served.template is None:
                    raise UserError(self._served.reason)
                return source.turns(self._served.template.render(self._ask.messages))
            if not isinstance(given, str):
                return token_ids(name, given, source.vocab_size, "T")
            tokens = source.tokenizer.encode_prompt(given.encode(), source.vocab_size, name)
        except UserError as error:
            raise Refusal(400, str(error), param) from error
        except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON may hold
            raise Refusal(400, f"{name} is no text: {error.reason} at letter {error.start}.", param) from error
        if not len(tokens):
            raise Refusal(400, f"{name} holds no token to go on from.", param)
        return tokens

    def _deliver(self, loop: asyncio.AbstractEventLoop, index: int) -> Callable:
        def deliver(event):
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens any more
                loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return deliver

    def _leave(self) -> None:
        """Takes the rest of the answer back, if there is any."""
        for job in self._jobs:
            job.over = True

    def _usage(self) -> Usage:
        prompt = sum(len(job.wish.prompt) for job in self._jobs)
        return Usage(prompt, sum(job.kept for job in self._jobs), sum(job.step for job in self._jobs))


async def _gone(request: Request) -> None:
    """Ends when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(content: dict) -> bytes:
    return f"data: {json.dumps(content, allow_nan=False)}\n\n".encode()


def _scored(scores, i: int, top: int) -> tuple[float, tuple]:
    """(log-probability of token i + 1, (id, log-probability) of the likeliest in its place)."""
    logprobs, ids, likeliest = scores
    return float(logprobs[i]), tuple(zip(ids[i, :top].tolist(), likeliest[i, :top].tolist(), strict=True))
