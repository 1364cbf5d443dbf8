"""Generated text, piece by piece: all of it, and each character as soon as it is whole."""

import hypothesis
import pytest
from hypothesis import strategies

from longctx.data import tokenizers
from longctx.generation import text
from tests.longctx.data import tiny_tokenizers as tiny

TOKENIZERS = {
    "metaspace": tiny.metaspace,
    "byte_fallback": tiny.byte_fallback,
    "byte_level": lambda: tiny.byte_level("<s>", "</s>"),
}
WORDS = strategies.text(strategies.sampled_from("ab is12\né中😀"), max_size=12)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    paths = {name: tiny.write(tmp_path_factory.mktemp(name), make()) for name, make in TOKENIZERS.items()}
    return {"bytes": tokenizers.load("bytes")} | {name: tokenizers.load(path) for name, path in paths.items()}


def pieces(tokenizer, prompt, new):
    return list(text.as_it_comes(tokenizer, prompt, iter(new)))


@pytest.mark.parametrize("name", ["bytes", "metaspace", "byte_level"])
@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(data=strategies.data())
def test_any_tokens_are_written_as_they_are_at_once(load, name, data):
    tokenizer = load[name]
    ids = strategies.lists(strategies.integers(0, tokenizer.vocab_size - 1), max_size=40)
    prompt, new = data.draw(ids), data.draw(ids)
    whole = tokenizer.decode(prompt + new)[len(tokenizer.decode(prompt)) :]
    assert "".join(pieces(tokenizer, prompt, new)) == whole


@pytest.mark.parametrize("name", ["bytes", *TOKENIZERS])
@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(prompt=WORDS, new=WORDS)
def test_text_comes_whole(load, name, prompt, new):
    tokenizer = load[name]
    before, after = (tokenizer.encode(part.encode()).tolist() for part in (prompt, new))
    got = pieces(tokenizer, before, after)
    assert "".join(got) == tokenizer.decode(before + after)[len(tokenizer.decode(before)) :]
    assert not any(text.UNFINISHED in piece for piece in got) or name == "metaspace"  # which has no é


def test_spaces_and_indentation_are_kept(load):
    tokenizer = load["metaspace"]
    prompt, new = (tokenizer.encode(part).tolist() for part in (b"is\n", b" a\n    b"))
    assert pieces(tokenizer, prompt, new)[0].startswith(" ") and tokenizer.decode(new)[0] == "a"
    assert "".join(pieces(tokenizer, prompt, new)).endswith("a\n    b")
    end = [tokenizer.eos]
    assert pieces(tokenizer, prompt + end, new) == pieces(tokenizer, prompt, new)  # it is not what stands before


def test_characters_come_as_soon_as_they_are_whole(load):
    tokenizer, written = load["bytes"], "a\u00e9\u4e2d\n\U0001f600 end\n"
    assert pieces(tokenizer, [], tokenizer.encode(written.encode())) == list(written)
    assert pieces(tokenizer, [], tokenizer.encode("a\u00e9".encode()[:-1])) == ["a", text.UNFINISHED]
    assert pieces(tokenizer, [256], [257, 97, 260]) == ["a"]


class Counted(tokenizers.ByteTokenizer):
    decoded = 0

    def decode(self, ids):
        self.decoded += len(ids)
        return super().decode(ids)


@pytest.mark.parametrize("token", [97, 0xFF, 257])
def test_the_work_grows_with_the_text_alone(token):
    tokenizer = Counted()
    pieces(tokenizer, [97] * 5000, [token] * 5000)
    assert tokenizer.decoded <= 5000 * (text.HELD + 2 * text.CONTEXT)


@hypothesis.given(
    strategies.text("ab#", max_size=30),
    strategies.lists(strategies.text("ab#", min_size=1, max_size=4), max_size=3),
    strategies.data(),
)
@hypothesis.example("#aa", ["a", "#aa"], None)
def test_a_text_ends_before_the_stop_that_is_complete_first(whole, stops, data):
    """However the text is cut into pieces; and no more is held back than may be the beginning of a stop."""
    cuts = sorted(data.draw(strategies.lists(strategies.integers(0, len(whole)), max_size=5))) if data else [2]
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    found = [(at + len(stop), at) for stop in stops if (at := whole.find(stop)) >= 0]
    assert "".join(text.until(pieces, stops)) == whole[: min(found, default=(0, len(whole)))[1]]


def test_what_cannot_begin_a_stop_comes_at_once():
    pieces = text.until(iter(["ab", "c#", "#d"]), ["##", "cx"])
    assert next(pieces) == "ab" and next(pieces) == "c" and list(pieces) == []


@pytest.mark.parametrize("name", ["bytes", *TOKENIZERS])
def test_spellings_of_tokens_are_the_bytes_of_a_text(load, name):
    tokenizer, written = load[name], "ab is12" if name == "metaspace" else "ab is12\né中😀"
    spelled = [tokenizer.spelling(token) for token in tokenizer.encode(written.encode())]
    assert b"".join(spelled).lstrip() == written.encode()  # some put a space in front of a text
    assert tokenizer.spelling(tokenizer.eos) in (b"</s>", b"<eos>") and tokenizer.spelling(10**6) == b""
