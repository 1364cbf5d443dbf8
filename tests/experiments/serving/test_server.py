"""The server, asked by OpenAI's client: it says what generation says, alone and among many, and scores as the model."""

import contextlib
import dataclasses
import http.client
import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
import pytest

from experiments.run.sources import Source
from experiments.serving import engine as engines
from experiments.serving.engine import Engine, Limits
from longctx.data import chat, tokenizers
from longctx.generation import api
from longctx.generation.rows import Rows
from tests.helpers import tolerance
from tests.longctx.generation.helpers import ONE, TINY, setup, uncached

openai = pytest.importorskip("openai", reason="openai, the client of extra [test], is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn, of extra [serve], is not installed")

from experiments.serving import app  # noqa: E402

BYTES = tokenizers.load("bytes")
CONFIG = dataclasses.replace(TINY, vocab_size=BYTES.vocab_size)
CONTEXT, ROWS, CHUNK = 160, 4, 32
TEMPLATE = chat.ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]", "test", {})
PROMPTS = ["The ring", "", "Attention is a sum that can be cut anywhere: \u00e9\u4e2d."]
WAIT_S = 60


class Running(NamedTuple):
    """A server that runs in this process."""

    client: object
    engine: Engine
    port: int


@contextlib.contextmanager
def running(template=TEMPLATE, **limits):
    mesh, graph, params = setup(CONFIG)
    with jax.set_mesh(mesh):
        rows = Rows(graph, params, ROWS, CONTEXT, CHUNK)
    engine = Engine(rows, mesh, Limits(**limits))
    engine.warm()
    source = Source(app.Locked(BYTES), CONFIG.vocab_size, BYTES.ends, None)
    served = app.Served("tiny", source, BYTES.ends, template, "it has no template", CONTEXT, engine)
    config = uvicorn.Config(app.make(served), port=0, log_level="error", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    threads = [threading.Thread(target=run) for run in (engine.run, server.run)]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + WAIT_S
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=WAIT_S, max_retries=0
        ) as client:
            yield Running(client, engine, port)
    finally:
        engine.stop()
        server.should_exit = True
        for thread in threads:
            thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in threads)


@pytest.fixture(scope="module")
def server():
    with running() as found:
        yield found


def tokens_of(prompt: str) -> np.ndarray:
    return BYTES.encode_prompt(prompt.encode(), CONFIG.vocab_size)


def generated_ids(prompts: list[np.ndarray], count: int, **how) -> list[np.ndarray]:
    mesh, graph, params = setup(CONFIG)
    with jax.set_mesh(mesh):
        return api.generate(graph, params, prompts, count, chunk=CHUNK, stop=BYTES.ends, **how)


def generated(prompts: list[np.ndarray], count: int, **how) -> list[str]:
    return [BYTES.decode(row) for row in generated_ids(prompts, count, **how)]


def logprobs_of(tokens) -> np.ndarray:
    """Log-probabilities [T, V] of the model without a cache, float64."""
    padded = np.zeros((1, CONTEXT), np.int32)
    padded[0, : len(tokens)] = tokens
    logits = uncached(CONFIG, padded, [len(tokens)], ONE)[0, : len(tokens)].astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def complete(server, prompt, count=12, **more):
    return server.client.completions.create(model="tiny", prompt=prompt, max_tokens=count, **{"temperature": 0} | more)


def test_the_model_is_listed(server):
    (listed,) = server.client.models.list().data
    assert listed.id == "tiny" and listed.model_extra["max_model_len"] == CONTEXT
    assert server.client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        server.client.models.retrieve("other/one")


@pytest.mark.parametrize("how", [{}, {"temperature": 0.9, "top_p": 0.8, "seed": 5}], ids=["greedy", "drawn"])
def test_texts_are_those_of_generate(server, how):
    """Of prompts of other lengths, together; drawn by the seed as generation draws its rows."""
    answer = complete(server, PROMPTS, **how)
    options = {"temperature": 0.9, "top_p": 0.8, "key": jax.random.key(5)} if how else {}
    rows = [tokens_of(prompt) for prompt in PROMPTS]
    assert [choice.text for choice in answer.choices] == generated(rows, 12, **options)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.prompt_tokens == sum(map(len, rows))
    ids = complete(server, [row.tolist() for row in rows], **how)
    assert [choice.text for choice in ids.choices] == [choice.text for choice in answer.choices]
    if how:
        assert complete(server, PROMPTS, **how | {"seed": 6}).choices != answer.choices


@pytest.mark.parametrize("count", [0, 1, 9])
def test_scores_of_prompt_and_answer_are_the_models(server, count):
    """With echo, as evaluation clients ask; a token is the likeliest where it stands first, to the bit."""
    row = tokens_of(PROMPTS[2])
    (choice,) = complete(server, PROMPTS[2], count, echo=True, logprobs=3).choices
    ids = np.concatenate([row, generated_ids([row], count)[0]]) if count else row
    told, want = choice.logprobs, logprobs_of(ids)
    assert choice.text == BYTES.decode(ids) and told.tokens == [named(token) for token in ids]
    assert told.token_logprobs[0] is None and told.top_logprobs[0] is None
    close = dict(rtol=0, atol=tolerance("float32", 256))
    np.testing.assert_allclose(told.token_logprobs[1:], want[np.arange(len(ids) - 1), ids[1:]], **close)
    for own, top, place in zip(told.token_logprobs[1:], told.top_logprobs[1:], want, strict=False):
        assert 3 <= len(top) <= 4 and own in top.values()
        np.testing.assert_allclose(sorted(top.values())[-3:], np.sort(place)[-3:], **close)
    for own, top in zip(told.token_logprobs[len(row) :], told.top_logprobs[len(row) :], strict=True):
        assert own == max(top.values())
    places = list(zip(told.tokens, told.text_offset, strict=True))
    # behind bytes that are no character, a letter is written along with the mark in their place
    starts = [place for before, place in itertools.pairwise(places) if len(before[0]) == len(place[0]) == 1]
    assert len(starts) > 40 and all(choice.text[offset] == token for token, offset in starts)


def named(token: int) -> str:
    spelled = BYTES.spelling(int(token))
    return spelled.decode() if token < 128 or token > 255 else f"bytes:\\x{token:02x}"


def test_a_chat(server):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why \u00e9?"}]
    ask = dict(model="tiny", messages=messages, temperature=0, max_completion_tokens=10)
    answer = server.client.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
    written = BYTES.encode(b"[system]Be brief.[user]Why \xc3\xa9?[assistant]")
    (choice,) = answer.choices
    assert choice.message.content == generated([written], 10)[0] and choice.message.role == "assistant"
    told = choice.logprobs.content
    new = generated_ids([written], 10)[0]
    want = logprobs_of(np.concatenate([written, new]))[len(written) - 1 : -1].max(-1)
    np.testing.assert_allclose([entry.logprob for entry in told], want, rtol=0, atol=tolerance("float32", 256))
    assert [bytes(entry.bytes) for entry in told] == [BYTES.spelling(int(token)) for token in new]
    assert all(len(entry.top_logprobs) == 2 and entry.top_logprobs[0].logprob == entry.logprob for entry in told)
    stream = server.client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == choice.message.content and last.usage.completion_tokens == answer.usage.completion_tokens


@pytest.mark.parametrize("more", [{}, {"echo": True, "logprobs": 1}], ids=["text", "scores"])
def test_a_stream_is_the_whole_in_pieces(server, more):
    whole = complete(server, PROMPTS, 40, **more)
    texts, told, reasons, pieces = ["", "", ""], [[], [], []], [None, None, None], 0
    for chunk in complete(server, PROMPTS, 40, stream=True, **more):
        (piece,) = chunk.choices
        texts[piece.index] += piece.text
        told[piece.index] += piece.logprobs.tokens if piece.logprobs else []
        reasons[piece.index] = piece.finish_reason or reasons[piece.index]
        pieces += 1
    assert texts == [choice.text for choice in whole.choices] and pieces > 6
    assert reasons == [choice.finish_reason for choice in whole.choices]
    if more:
        assert told == [choice.logprobs.tokens for choice in whole.choices]


def test_a_stop_ends_the_text_before_it(server):
    whole = complete(server, PROMPTS[0], 40).choices[0].text
    stop = whole[5:8]
    want = whole[: whole.index(stop)]
    for stops in (stop, ["\u4e2d never", stop]):
        choice = complete(server, PROMPTS[0], 40, stop=stops).choices[0]
        assert (choice.text, choice.finish_reason) == (want, "stop")
    pieces = list(complete(server, PROMPTS[0], 40, stop=stop, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == want
    assert pieces[-1].choices[0].finish_reason == "stop"


def test_sixty_four_at_once_get_what_each_gets_alone(server):
    rng = np.random.default_rng(0)
    prompts = [bytes(rng.integers(97, 123, rng.integers(1, 70), np.uint8)).decode() for _ in range(64)]
    ask = lambda prompt: complete(server, prompt, 8, echo=True, logprobs=1).choices[0]
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(ask, prompts))
    for prompt, many in zip(prompts, together, strict=True):
        alone = ask(prompt)
        assert many.text == alone.text
        close = dict(rtol=0, atol=tolerance("float32", 256))
        np.testing.assert_allclose(many.logprobs.token_logprobs[1:], alone.logprobs.token_logprobs[1:], **close)
    some = [tokens_of(prompt) for prompt in prompts[:3]]
    assert [choice.text for choice in together[:3]] == [
        p + t for p, t in zip(prompts, generated(some, 8), strict=False)
    ]


def reading(server, ask) -> tuple[int, object]:
    """(the tokens of prompts that were read for an answer, the answer)."""
    before = server.engine.rows.tokens_read
    answer = ask()
    return server.engine.rows.tokens_read - before, answer


def test_a_common_beginning_is_read_once(server):
    """By a later request, by those of one list, and where scores are asked for; a turn goes on from the one before."""
    complete(server, "q", 1)  # so that the first token, BOS, is there
    common = "#" * 64
    first = [common + end for end in ("one", "two", "three", "four")]
    count, together = reading(server, lambda: complete(server, first, 3))
    assert count == 64 + 3 + 3 + 5 + 4
    assert together.usage.prompt_tokens_details.cached_tokens == together.usage.prompt_tokens - count
    assert [choice.text for choice in together.choices] == generated([tokens_of(prompt) for prompt in first], 3)
    count, later = reading(server, lambda: complete(server, common + "five", 3))
    assert count == 3 and later.choices[0].text == generated([tokens_of(common + "five")], 3)[0]
    scored = ["~" * 64 + end for end in ("one", "four")]
    count, both = reading(server, lambda: complete(server, scored, 1, echo=True, logprobs=1))
    assert count == 1 + 64 + 3 + 2 + 4  # the last ones in common are read again: scores of those behind come from them
    for prompt, choice in zip(scored, both.choices, strict=True):
        ids = tokens_of(prompt)
        want = logprobs_of(ids)[np.arange(len(ids) - 1), ids[1:]]
        got = choice.logprobs.token_logprobs[1 : len(ids)]
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance("float32", 256))


REFUSED = [
    ({"prompt": "x" * 200}, openai.BadRequestError, "201 tokens; with 12 new ones that is more than the 160"),
    ({"max_tokens": 500}, openai.BadRequestError, "context_length_exceeded"),
    ({"prompt": [1, 264]}, openai.BadRequestError, "ids from 1 to 264"),
    ({"prompt": "a\ud800"}, openai.BadRequestError, "is no text"),
    ({"model": "gpt-5"}, openai.NotFoundError, "model_not_found"),
    ({"temperature": "hot"}, openai.BadRequestError, "must be a number"),
    ({"extra_body": {"best": 3}}, openai.BadRequestError, "'best' is not known"),
    ({"n": 2}, openai.BadRequestError, "n=2 is not supported"),
]


@pytest.mark.parametrize("more, error, words", REFUSED)
def test_what_is_refused(server, more, error, words):
    ask = {"model": "tiny", "prompt": "a", "max_tokens": 12} | more
    if "\ud800" in ask["prompt"]:
        status, content = posted(server, json.dumps(ask))
        assert status == 400 and words in content["error"]["message"]
        return
    with pytest.raises(error) as refused:
        server.client.completions.create(**ask)
    assert words in f"{refused.value} {refused.value.code}" and refused.value.body["type"] == "invalid_request_error"


def posted(server, body, path="/v1/completions", kind="application/json", method="POST"):
    """(status, content) of a request as it stands."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    connection.request(method, path, body, {"content-type": kind} if kind else {})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    assert content["error"].keys() == {"message", "type", "param", "code"}
    return answer.status, content


def test_requests_that_are_none(server, monkeypatch):
    assert posted(server, "{")[0] == posted(server, "[1]")[0] == posted(server, "[" * 100_000)[0] == 400
    assert posted(server, "{}", kind="text/plain")[0] == 415
    assert posted(server, "{}", path="/v1/embeddings")[0] == 404
    assert posted(server, None, method="GET", kind=None)[0] == 405
    monkeypatch.setattr(server.engine, "limits", Limits(body=100))
    assert posted(server, json.dumps({"model": "tiny", "prompt": "a" * 200}))[0] == 413


def test_no_template_no_chat(server):
    with running(template=None) as other, pytest.raises(openai.BadRequestError, match="it has no template"):
        other.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}])


def test_limits_of_time_and_of_who_waits(server, monkeypatch):
    monkeypatch.setattr(server.engine, "limits", Limits(waiting=2))
    with pytest.raises(openai.RateLimitError, match="at most 2 may"):
        complete(server, ["a", "b", "c"])
    monkeypatch.setattr(server.engine, "limits", Limits(seconds=1e-6))
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError, match="not complete after 1e-06 s") as late:
            complete(server, "a", stream=stream)
        assert late.value.status_code == 504
    write = server.engine.rows.write
    slow = lambda *given: (time.sleep(0.05), write(*given))[1]
    monkeypatch.setattr(server.engine.rows, "write", slow)
    monkeypatch.setattr(server.engine, "limits", Limits(seconds=0.5))
    pieces = []
    with pytest.raises(openai.APIError, match="not complete after 0.5 s"):
        for piece in complete(server, PROMPTS[0], 100, stream=True):
            pieces.append(piece)
    assert pieces
    monkeypatch.undo()
    assert complete(server, PROMPTS[0]).choices[0].text == generated([tokens_of(PROMPTS[0])], 12)[0]


def test_a_client_that_leaves_frees_its_row(server, monkeypatch):
    write = server.engine.rows.write
    monkeypatch.setattr(server.engine.rows, "write", lambda *given: (time.sleep(0.02), write(*given))[1])
    stream = complete(server, PROMPTS[0], 150, stream=True)
    next(iter(stream))
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        complete(server, PROMPTS[2], 100, timeout=0.2)
    deadline = time.monotonic() + WAIT_S
    busy = lambda: any(row.job for row in server.engine._rows)
    while busy() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not busy() and max(server.engine.rows._lengths) < 150


def test_logits_that_are_nan_are_said_and_harm_no_other(server, monkeypatch):
    write = server.engine.rows.write

    def first_is_nan(draws, goes_on):
        tokens, scores = write(draws, goes_on)
        monkeypatch.setattr(server.engine.rows, "write", write)
        return np.where(np.arange(ROWS) == next(i for i, draw in enumerate(draws) if draw), -1, tokens), scores

    monkeypatch.setattr(server.engine.rows, "write", first_is_nan)
    with pytest.raises(openai.InternalServerError, match="logits are NaN"):
        complete(server, PROMPTS[0])
    assert complete(server, PROMPTS[0]).choices[0].text == generated([tokens_of(PROMPTS[0])], 12)[0]


def test_an_engine_that_fails_leaves_nobody_waiting(monkeypatch):
    class Broken(engines.Engine):
        def run(self):
            with pytest.raises(ZeroDivisionError):
                super().run()

    monkeypatch.setitem(globals(), "Engine", Broken)
    with running() as server:
        monkeypatch.setattr(server.engine.rows, "read", lambda *given: 1 / 0)
        for _ in range(2):  # while it fails, and after that
            with pytest.raises(openai.InternalServerError, match="stopping"):
                complete(server, "a")
