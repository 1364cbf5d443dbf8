"""Requests that are refused, each with the words that tell what would work, and answers in OpenAI's form."""

import pytest

from experiments.serving import protocol
from experiments.serving.protocol import Ask, Choice, Refusal, Told, Usage
from longctx.data import tokenizers
from longctx.generation.request import Sampling

TEXT = {"model": "m", "prompt": "a"}
TALK = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
SPELLING = tokenizers.load("bytes").spelling


@pytest.mark.parametrize(
    "change, status, param, words",
    [
        ({"model": "other"}, 404, "model", "this server has 'm'"),
        ({"model": None}, 400, "model", "model is missing"),
        ({"prompt": None}, 400, "prompt", "a list of texts"),
        ({"prompt": []}, 400, "prompt", "a list of texts"),
        ({"prompt": [1, "a"]}, 400, "prompt", "a row of token ids"),
        ({"prompt": [[True]]}, 400, "prompt", "a row of token ids"),
        ({"temprature": 1}, 400, "temprature", "Did you mean 'temperature'"),
        ({"temperature": "hot"}, 400, "temperature", "must be a number"),
        ({"temperature": -1}, 400, "temperature", "temperature=-1 must be 0"),
        ({"temperature": 0, "top_p": 3}, 400, "top_p", "top_p=3 must be"),
        ({"max_tokens": 1.5}, 400, "max_tokens", "a whole number from 0"),
        ({"max_tokens": True}, 400, "max_tokens", "a whole number from 0"),
        ({"max_tokens": 0}, 400, "max_tokens", "echo=true scores the prompt"),
        ({"logprobs": 6}, 400, "logprobs", "from 0 to 5"),
        ({"n": 2}, 400, "n", "1 works"),
        ({"logit_bias": {"3": 1}}, 400, "logit_bias", "is not supported"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty", "0 works"),
        ({"suffix": "end"}, 400, "suffix", "is not supported"),
        ({"stop": ["a", ""]}, 400, "stop", "none of them empty"),
        ({"stop": 17 * ["a"]}, 400, "stop", "up to 16"),
        ({"seed": 2**64}, 400, "seed", "a whole number"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "is for stream=true"),
        ({"stream": True, "stream_options": {"usage": 1}}, 400, "stream_options.usage", "include_usage"),
    ],
)
def test_completions_that_are_refused(change, status, param, words):
    with pytest.raises(Refusal) as refused:
        protocol.completion(TEXT | change, "m")
    error = refused.value.content["error"]
    assert refused.value.status == status and error["param"] == param and words in error["message"]
    assert error["type"] == "invalid_request_error" and error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "change, param, words",
    [
        ({"messages": []}, "messages", "messages is missing"),
        ({"messages": ["a"]}, "messages[0]", "a role and a content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "type 'text'"),
        ({"messages": [{"role": "assistant", "tool_calls": [1]}]}, "messages[0].tool_calls", "not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "[] works"),
        ({"response_format": {"type": "json_object"}}, "response_format", "'text'"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "leave it out"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "from 1"),
        ({"logprobs": 3}, "logprobs", "true or false"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs=true"),
        ({"prompt": "a"}, "prompt", "'prompt' is not known"),
    ],
)
def test_chats_that_are_refused(change, param, words):
    with pytest.raises(Refusal) as refused:
        protocol.chat(TALK | change, "m")
    error = refused.value.content["error"]
    assert refused.value.status == 400 and error["param"] == param and words in error["message"]


def test_what_is_asked_for():
    none = {"n": None, "stop": None, "logit_bias": None, "user": "me", "best_of": 1}
    assert protocol.completion(TEXT | none, "m") == Ask(("a",), max_tokens=16, sampling=Sampling(1.0))
    many = {
        "prompt": [[1, 2], [3]],
        "temperature": 0,
        "top_p": 0.5,
        "stop": "x",
        "seed": -3,
        "logprobs": 0,
        "echo": True,
    }
    want = Ask(([1, 2], [3]), max_tokens=0, seed=-3, stops=("x",), top=0, echo=True)
    assert protocol.completion(TEXT | many | {"max_tokens": 0}, "m") == want
    assert protocol.completion(TEXT | {"prompt": [1, 2]}, "m").prompts == ([1, 2],)
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    talk = {"messages": [{"role": "user", "content": parts}], "logprobs": True, "top_logprobs": 2}
    got = protocol.chat(TALK | talk | {"stream": True, "stream_options": {"include_usage": True}}, "m")
    assert got.messages == ({"role": "user", "content": "bc"},) and got.max_tokens is None
    assert (got.top, got.stream, got.usage) == (2, True, True)


def test_tokens_of_a_completion():
    """Bytes that are no character have a name of their own; a token stands among the likeliest even if it is not."""
    told = (Told(97, 0), Told(0xC3, 1, -1.5, ((98, -0.5), (0xC3, -1.5))), Told(257, 1, float("-inf"), ((98, -0.5),)))
    form = protocol.Completions(Ask(("a",), top=1), "m", "0", SPELLING)
    answer = form.answer([Choice(0, "a", told, "stop")], Usage(1, 0, 2))
    logprobs = answer["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["a", "bytes:\\xc3", "<eos>"],
        "token_logprobs": [None, -1.5, -9999.0],
        "top_logprobs": [None, {"b": -0.5, "bytes:\\xc3": -1.5}, {"b": -0.5, "<eos>": -9999.0}],
        "text_offset": [0, 1, 1],
    }
    assert answer["usage"]["total_tokens"] == 3 and answer["object"] == "text_completion"


def test_tokens_of_a_chat():
    form = protocol.Chat(Ask((None,), top=1, stream=True), "m", "0", SPELLING)
    chunk = form.chunk(Choice(0, "b", (Told(0xC3, 0, -1.5, ((98, -0.5), (97, -2.0))),), None))
    (entry,) = chunk["choices"][0]["logprobs"]["content"]
    assert entry["bytes"] == [0xC3] and entry["top_logprobs"] == [{"token": "b", "logprob": -0.5, "bytes": [98]}]
    assert form.begin(0)[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunk["object"] == "chat.completion.chunk" and form.end(Usage(1, 0, 1)) == []
