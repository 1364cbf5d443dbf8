import numpy as np
import pytest

from longctx.data import tokenizers
from longctx.data.generated import passkey
from longctx.data.sources import Document


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


def test_training_documents_ask_often_fill_their_share_and_fit_a_row():
    tokenizer = tokenizers.ByteTokenizer()
    real = [Document("a", b"import os\n" * 300), Document("b", "größe = 5\n".encode() * 10)]
    made = passkey.Passkey(0.1).training_documents(np.random.default_rng(0), tokenizer, 200_000, 2048, real)
    lengths = np.array([len(ids) + 1 for ids in made])
    assert 200_000 <= lengths.sum() + len(made) < 202_048 + len(made)
    assert 1900 < lengths.max() <= 2048 and lengths.min() < 120 and 300 < np.median(lengths) < 600
    texts = [tokenizer.decode(ids) for ids in made]
    assert any("yellow" in text for text in texts[::2]) and not any("yellow" in text for text in texts[1::2])
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
    with pytest.raises(ValueError, match="shortest task"):
        passkey.Passkey(0.1).training_documents(np.random.default_rng(0), tokenizer, 1, 100, real)


class DoubledBytes(tokenizers.ByteTokenizer):
    """Two tokens for every "~": an estimate from the usual filler is far off."""

    def encode(self, text, name="the text"):
        ids = super().encode(text)
        return np.repeat(ids, np.where(ids == ord("~"), 2, 1))


def test_tasks_that_come_out_too_long_are_cut():
    real = [Document("a", b"~" * 5000)]
    made = passkey.Passkey(0.1).training_documents(np.random.default_rng(0), DoubledBytes(), 50_000, 1024, real)
    assert max(len(ids) + 1 for ids in made[1::2]) == 1024


def test_log_uniform_gives_every_octave_its_share():
    rng = np.random.default_rng(0)
    octaves = np.bincount([passkey.log_uniform(rng, 4, 64).bit_length() for _ in range(4000)])
    assert octaves[:3].sum() == 0 and len(octaves) == 7 and (abs(octaves[3:] - 1000) < 150).all()
