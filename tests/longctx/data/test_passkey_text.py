import numpy as np
import pytest

from longctx.data import tokenizers
from longctx.data.document import Document
from longctx.data.generated import passkey
from longctx.data.generated.task import log_uniform


@pytest.mark.parametrize("length", [400, 1000, 8192, 100_000])
@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_length_depth_and_one_needle(length, depth):
    text, answer = passkey.prompt(np.random.default_rng(length), length, depth)
    assert len(text + answer) == length
    number = answer.strip()
    assert answer == f" {number}" and 1 <= int(number) <= 50_000
    needle = f"The pass key is {number}. Remember it. {number} is the pass key."
    assert text.count(needle) == 1 and text.count(number) == 2
    assert text.startswith("There is an important info hidden")
    assert text.endswith("What is the pass key? The pass key is")
    filler = length - len(passkey.TASK) - len(needle) - 2 - len(passkey.QUESTION) - len(answer)
    assert abs(text.index(needle) - 1 - len(passkey.TASK) - depth * filler) <= 1


def test_a_short_length_gives_the_shortest_task():
    text, answer = passkey.prompt(np.random.default_rng(0), 1, 0.5)
    assert "grass" not in text and f"{answer}. Remember" in text
    assert len(text + answer) < passkey.shortest(tokenizers.ByteTokenizer())


def test_the_same_generator_state_gives_the_same_task_and_another_length_the_same_number():
    short, long = (passkey.prompt(np.random.default_rng(5), n, 0.5) for n in (500, 5000))
    assert short[1] == long[1] and passkey.prompt(np.random.default_rng(5), 500, 0.5) == short


def test_real_text_as_filler_keeps_characters_whole():
    text, answer = passkey.prompt(np.random.default_rng(1), 3001, 0.37, filler="日本語のテキスト。")
    assert 3001 - 8 <= len((text + answer).encode()) <= 3001
    assert "\ufffd" not in text and set("日本語のテキスト。") <= set(text)


def test_training_documents_ask_often_and_have_their_length():
    tokenizer, rng = tokenizers.ByteTokenizer(), np.random.default_rng(0)
    real = [Document("a", b"import os\n" * 300), Document("b", "größe = 5\n".encode() * 10)]
    fewest, most = passkey.Passkey(0.1).lengths(tokenizer)
    assert 100 < fewest < 120 and most is None
    sizes = [fewest, *(log_uniform(rng, fewest, 2048) for _ in range(400))]
    made = [passkey.Passkey(0.1).document(rng, tokenizer, size, real).ids for size in sizes]
    for ids, size in zip(made, sizes, strict=True):
        assert size - 6 <= len(ids) <= size  # halves of characters may be gone
    texts = [tokenizer.decode(ids) for ids in made]
    assert 0.4 < np.mean(["yellow" in text for text in texts if len(text) > 600]) < 0.6
    assert 0.1 < np.mean([text.startswith(passkey.TASK) for text in texts]) < 0.6
    asked = []
    for text in texts:
        number = text.rsplit(" ", 1)[1]
        needle = f"The pass key is {number}. Remember it. {number} is the pass key."
        before, after = text.split(needle)
        assert number not in before
        asked.append(after.count(f"The pass key is {number}"))
        assert asked[-1] == after.count("The pass key is") >= 1
    assert np.mean(asked) > 3


class DoubledBytes(tokenizers.ByteTokenizer):
    """Two tokens for every "~": an estimate from the usual filler is far off."""

    def encode(self, text, name="the text"):
        ids = super().encode(text)
        return np.repeat(ids, np.where(ids == ord("~"), 2, 1))


def test_tasks_that_come_out_too_long_are_cut():
    real, rng = [Document("a", b"~" * 5000)], np.random.default_rng(0)
    made = [passkey.Passkey(0.1).document(rng, DoubledBytes(), 1023, real).ids for _ in range(20)]
    assert max(map(len, made)) == 1023


def test_log_uniform_gives_every_octave_its_share():
    rng = np.random.default_rng(0)
    octaves = np.bincount([log_uniform(rng, 4, 64).bit_length() for _ in range(4000)])
    assert octaves[:3].sum() == 0 and len(octaves) == 7 and (abs(octaves[3:] - 1000) < 150).all()
