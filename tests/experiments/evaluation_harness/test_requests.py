"""Requests of lm-evaluation-harness as tokens: what is asked for, what is given, what is too long."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.evaluation_harness import requests
from experiments.evaluation_harness.requests import Reader, Wanted, continued, shortened, wanted, windows
from longctx.data import tokenizers
from longctx.evals.batches import Piece
from tests.experiments.settings.test_bad_input import has, problem
from tests.longctx.data import tiny_tokenizers as tiny

BYTES = Reader(tokenizers.ByteTokenizer(), 259, 64)
BOS = BYTES.tokenizer.bos
TEXTS = st.text("ab12 \n", max_size=12)


def reader(tmp_path, tokenizer, config, length=64, cut=False) -> Reader:
    loaded = tokenizers.load(tiny.write(tmp_path, tokenizer, tokenizer_config=config))
    return Reader(loaded, loaded.vocab_size, length, cut)


def asked(piece: Piece) -> list[int]:
    return piece.targets[piece.asked].tolist()


def row(piece: Piece) -> list[int]:
    """All tokens of a piece, after a check that each target is the input that follows."""
    assert piece.inputs[1:].tolist() == piece.targets[:-1].tolist()
    return [*piece.inputs.tolist(), int(piece.targets[-1])]


@pytest.mark.parametrize(
    "context, continuation, of_continuation",
    [("the sky is", " blue", " blue"), ("the sky is  ", "blue", "  blue"), ("Answer:\n", "x", "\nx")],
)
def test_spaces_at_the_end_of_a_context_are_of_the_continuation(context, continuation, of_continuation):
    piece, cut = continued(BYTES, context, continuation)
    assert bytes(asked(piece)).decode() == of_continuation and not cut
    assert row(piece) == [BOS, *(context + continuation).encode()]


@pytest.mark.parametrize("context", ["", "  "])
def test_an_empty_context_is_the_start_token(context):
    piece, _ = continued(BYTES, context, "né")
    assert row(piece) == [BOS, *f"{context}né".encode()] and asked(piece) == [*f"{context}né".encode()]


def test_a_token_of_both_is_of_the_continuation(tmp_path):
    """Even where the start token alone is left before it, which prompts of this model do not have."""
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}
    one = reader(tmp_path, tiny.byte_level("<s>", "</s>"), config)
    three, twelve, behind = (one.tokenizer.encode(text)[0] for text in (b"3", b"12", b" 12"))
    assert row(continued(one, "3 1", "2")[0]) == [three, behind] and asked(continued(one, "3 1", "2")[0]) == [behind]
    piece, _ = continued(one, "1", "2")
    assert row(piece) == [one.tokenizer.bos, twelve] and asked(piece) == [twelve]


@settings(max_examples=60, deadline=None)
@given(context=TEXTS, continuation=TEXTS.filter(bool))
def test_where_tokens_end_at_the_context_it_is_split_there(tmp_path_factory, context, continuation):
    """With the start token where the model's prompts have it, and where no whole token is of the context."""
    for bos in (True, False):
        config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": bos}
        one = reader(tmp_path_factory.getbasetemp() / f"bos{bos}", tiny.byte_level("<s>", "</s>"), config)
        before, whole = (
            one.tokenizer.encode(text.encode()).tolist() for text in (context.rstrip(), context + continuation)
        )
        _, spans = one.tokenizer.encode_with_spans((context + continuation).encode())
        piece, _ = continued(one, context, continuation)
        assert row(piece)[-len(whole) :] == whole
        assert len(row(piece)) - len(whole) == (bos or not before or spans[0, 1] > len(context.rstrip().encode()))
        if whole[: len(before)] == before:
            assert asked(piece) == whole[len(before) :]


def test_special_tokens_in_a_request_are_read_as_such(tmp_path):
    one = reader(tmp_path, tiny.byte_level("<s>", "</s>"), {"bos_token": "<s>", "eos_token": "</s>"})
    bos, eos = one.tokenizer.bos, one.tokenizer.eos
    piece, _ = continued(one, "<s>1</s>", "2")
    assert row(piece) == [bos, *one.tokenizer.encode(b"1"), eos, *one.tokenizer.encode(b"2")]
    assert asked(piece) == one.tokenizer.encode(b"2").tolist()
    piece, _ = continued(one, "", "<s>2")
    assert row(piece) == [bos, *one.tokenizer.encode(b"2")] and len(asked(piece)) == 1
    assert one.tokenizer.encode(b"<s>").size > 1, "and in texts they stay text"


def test_what_is_no_request():
    has(problem(continued, BYTES, "a", ""), "asks for '', which has no token, behind 'a'")
    has(problem(continued, BYTES._replace(vocab_size=90), "Is", "it"), "holds token 115", "only 90", "'Isit'")


def test_long_requests_are_refused_or_lose_what_is_behind_the_start():
    context, short = "0123456789", BYTES._replace(length=8)
    has(problem(continued, short, context, "ab"), "takes 12 tokens", "--length=8", "--cut")
    piece, cut = continued(short._replace(cut=True), context, "ab")
    assert cut and row(piece) == [BOS, *b"456789ab"] and bytes(asked(piece)) == b"ab"
    assert continued(short, "01234", "abc")[0].inputs.size == 8
    has(problem(continued, short._replace(cut=True), "0", "abcdefghi"), "takes 10 tokens")
    whole = Piece(np.arange(10), np.arange(1, 11), np.arange(-8, 0))
    assert shortened(short._replace(cut=True), whole, "")[0].inputs.tolist() == [*range(2, 10)]


def test_windows_ask_for_every_token_once_and_the_last_is_full():
    found = windows(BYTES._replace(length=4), "0123456789")
    assert [(bytes(piece.inputs[piece.inputs < 256].tolist()), bytes(asked(piece))) for piece in found] == [
        (b"012", b"0123"),
        (b"3456", b"4567"),
        (b"5678", b"89"),
    ]
    assert found[0].inputs[0] == BOS and not windows(BYTES, "")
    (only,) = windows(BYTES, "01")
    assert row(only) == [BOS, *b"01"] and bytes(asked(only)) == b"01"


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=40), length=st.integers(2, 9))
def test_windows_of_any_text(text, length):
    found = windows(BYTES._replace(length=length), text)
    assert b"".join(bytes(asked(piece)) for piece in found) == text.encode()
    assert all(len(piece.inputs) == min(length, len(text.encode())) for piece in found)


@pytest.mark.parametrize(
    "said, count, until",
    [
        ({"until": ["\n", ""], "max_gen_toks": 5}, 5, ("\n",)),
        ({"until": "stop", "max_new_tokens": "7", "do_sample": False, "temperature": 0.7}, 7, ("stop",)),
        ({"until": [], "max_gen_toks": None, "max_tokens": 9, "temperature": 0.0}, 9, ()),
        ({"do_sample": True, "temperature": 0}, requests.MOST_TOKENS, ()),
        ({"until": None}, requests.MOST_TOKENS, ()),
    ],
)
def test_what_a_generation_asks_for(said, count, until):
    found, cut = wanted(BYTES._replace(length=512), "Q:", said)
    assert (found.count, found.until, cut) == (count, until, False) and found.prompt.tolist() == [BOS, *b"Q:"]


def test_generations_that_are_refused_or_cut():
    has(problem(wanted, BYTES, "Q", {"do_sample": True}), "do_sample=True", "greedy")
    has(problem(wanted, BYTES, "Q", {"temperature": 0.5}), "temperature=0.5", "greedy")
    short = BYTES._replace(length=8)
    has(problem(wanted, short, "0123", {"max_gen_toks": 4}), "takes 9 tokens", "--length=8", "4 tokens of an answer")
    found, cut = wanted(short._replace(cut=True), "01234", {"max_gen_toks": 4})
    assert cut and found.prompt.tolist() == [BOS, *b"234"]
    has(problem(wanted, short._replace(cut=True), "0", {"max_gen_toks": 7}), "takes 9 tokens")
    assert wanted(short, "", {"max_gen_toks": 7})[0].prompt.tolist() == [BOS]


@pytest.mark.parametrize(
    "until, text", [((), "one.\ntwo"), (("\n",), "one."), (("wo", "e.\nt"), "on"), (("tw", "two"), "one.\n")]
)
def test_an_answer_ends_before_what_ends_it(until, text):
    tokens = [*b"one.\ntwo", BYTES.tokenizer.eos, *b"\nthree"]
    assert requests.answer(BYTES, Wanted(np.array([BOS]), 20, until), tokens, BYTES.tokenizer.ends) == text


def test_the_space_that_an_answer_begins_with_is_kept(tmp_path):
    one = reader(tmp_path, tiny.metaspace(), {"bos_token": "<s>", "eos_token": "</s>"})
    prompt = wanted(one, "a b", {"max_gen_toks": 3})[0]
    assert requests.answer(one, prompt, one.tokenizer.encode(b"a is").tolist(), ()) == " a is"
