"""The passkey grid, on models that copy, that cannot, that see only the recent past, and that guess."""

import json
import math
import re

import numpy as np
import pytest

from longctx.config import EvalConfig
from longctx.data import tokenizers
from longctx.data.generated import passkey as passkey_text
from longctx.data.generated.passkey import LARGEST
from longctx.data.tokenizers import ByteTokenizer
from longctx.evals.batches import Prediction
from longctx.evals.tasks import passkey
from tests.longctx.data import tiny_tokenizers as tiny

CONFIG = EvalConfig(depths=3, samples=2)


def copier(reach=1 << 30):
    """An induction head: where the last 8 tokens appeared before, at most `reach` back, it repeats what followed."""

    def predictor(batch):
        losses, top = np.full(batch["tokens"].shape, math.log(259.0)), np.zeros(batch["tokens"].shape, bool)
        for row, (tokens, targets) in enumerate(zip(batch["tokens"], batch["targets"], strict=True)):
            seen = {}
            for t in range(8, int((batch["segments"][row] > 0).sum())):
                key = tokens[t - 7 : t + 1].tobytes()
                if t - seen.get(key, -reach) < reach:
                    top[row, t] = targets[seen[key]] == targets[t]
                    losses[row, t] = -math.log(0.9 if top[row, t] else 0.1 / 258)
                seen.setdefault(key, t)
        return Prediction(losses.astype(np.float32), top)

    return predictor


def guesser(right):
    """A model without context whose top choice is right where right(targets) says."""
    return lambda batch: Prediction(
        np.full(batch["tokens"].shape, math.log(259.0), np.float32), right(batch["targets"])
    )


def recorder():
    """(a predictor that is never right, the rows it was given as (inputs, targets) without padding)."""
    rows = []

    def predictor(batch):
        sizes = (batch["segments"] > 0).sum(axis=1)
        rows.extend((batch["tokens"][i, :n], batch["targets"][i, :n]) for i, n in enumerate(sizes) if n)
        return never(batch)

    return predictor, rows


never = guesser(lambda targets: np.zeros(targets.shape, bool))


def grid(result, name):
    return np.array(result["grid"][name], float)


def test_a_model_that_copies_finds_every_number(byte_tokenizer):
    result = passkey.run(copier(), [], byte_tokenizer, CONFIG, (512, 1024), 0)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert grid(result, "accuracy").shape == (3, 2) and result["depths"] == [0, 0.5, 1]
    assert (grid(result, "accuracy") == 1).all() and (grid(result, "exact") == 1).all()
    np.testing.assert_allclose(grid(result, "loss"), -math.log(0.9), rtol=1e-3)
    assert (grid(result, "control") < 1).all() and result["chance"] < 0.5
    assert (grid(result, "gain") > 2).all()


def test_a_model_that_is_never_right_finds_none(byte_tokenizer):
    result = passkey.run(never, [], byte_tokenizer, CONFIG, (512,), 0)
    for name in ("accuracy", "exact", "control", "gain"):
        np.testing.assert_array_equal(grid(result, name), 0)
    assert result["chance"] == 0


def test_depth_is_where_the_number_is(byte_tokenizer):
    """A model that looks back at most 500 tokens finds numbers near the end only."""
    accuracy = grid(passkey.run(copier(reach=500), [], byte_tokenizer, CONFIG, (2048,), 0), "accuracy")[:, 0]
    assert accuracy.tolist() == [0, 0, 1]


def test_numbered_prompts_count_what_is_exact_and_read_no_control(byte_tokenizer):
    task = passkey.Passkeys(byte_tokenizer, number=12, depths=4, seed=5)
    assert task.count(1024) == 12 and task.count(16) == 0
    parts = [task.rows(1024, numbers) for numbers in (range(5), range(5, 12))]
    assert [len(batch["tokens"]) for batch, _ in parts] == [5, 7]
    counts = task.merged([counted(copier(reach=500)(batch)) for batch, counted in parts])
    assert counts == {"asked": [3] * 4, "right": [0, 0, 3, 3]}  # of depths 0, 1/3, 2/3, 1
    assert task.merged([counted(never(batch)) for batch, counted in parts])["right"] == [0] * 4
    again = task.rows(1024, range(4, 6)).batch
    assert (again["tokens"][0] == parts[0].batch["tokens"][4]).all()
    assert (again["tokens"][1] == parts[1].batch["tokens"][0]).all()
    summary = task.summary(counts)
    assert (summary.value, summary.low, summary.high) == (
        0.5,
        pytest.approx(0.2538, abs=1e-4),
        pytest.approx(0.7462, abs=1e-4),
    )


def test_accuracy_is_over_digits_and_exact_over_prompts(byte_tokenizer):
    """A guesser of even digits gets as much with another number hidden: that is the chance, and the gain is 0."""
    predictor, rows = recorder()
    config = EvalConfig(depths=2, samples=12)
    passkey.run(predictor, [], byte_tokenizer, config, (512,), 3)
    answers = [byte_tokenizer.decode(targets).rsplit(" ", 1)[1] for _, targets in rows[::2]]
    assert len({len(answer) for answer in answers}) > 1
    result = passkey.run(guesser(lambda targets: targets % 2 == 0), [], byte_tokenizer, config, (512,), 3)
    for row, cell in enumerate((answers[:12], answers[12:])):
        even = [digit in "02468" for answer in cell for digit in answer]
        assert grid(result, "accuracy")[row, 0] == pytest.approx(np.mean(even), abs=1e-4)
        exact = np.mean([set(answer) <= set("02468") for answer in cell])
        assert grid(result, "exact")[row, 0] == pytest.approx(exact, abs=1e-4)
    assert (grid(result, "control") == grid(result, "accuracy")).all() and (grid(result, "gain") == 0).all()
    assert result["chance"] == pytest.approx(grid(result, "accuracy").mean(), abs=1e-4)


@pytest.mark.parametrize("space, expected", [(True, 0), (False, 1)])
def test_the_space_before_the_digits_is_not_scored(byte_tokenizer, space, expected):
    result = passkey.run(guesser(lambda targets: (targets == ord(" ")) == space), [], byte_tokenizer, CONFIG, (512,), 0)
    assert (grid(result, "accuracy") == expected).all() and (grid(result, "exact") == expected).all()


def test_the_control_hides_another_number_and_scores_the_same_answer(byte_tokenizer):
    predictor, rows = recorder()
    passkey.run(predictor, [], byte_tokenizer, EvalConfig(depths=2, samples=20), (512,), 0)
    assert len(rows) == 2 * 2 * 20
    texts = [byte_tokenizer.decode([*inputs, targets[-1]]) for inputs, targets in rows]
    for own, control in zip(texts[::2], texts[1::2], strict=True):
        (answer,) = {*re.findall(r"\d+", own)}
        first, second, scored = re.findall(r"\d+", control)
        assert first == second != scored == answer and len(first) == len(answer) and int(first) <= LARGEST
        assert re.sub(r"\d+", "", own) == re.sub(r"\d+", "", control)


@pytest.mark.parametrize(
    "number, low, high",
    [("1", 2, 9), ("9", 1, 8), ("50", 10, 99), ("10000", 10001, LARGEST), (str(LARGEST), 10000, LARGEST - 1)],
)
def test_every_other_number_of_as_many_digits_can_be_hidden(number, low, high):
    rng = np.random.default_rng(0)
    drawn = {int(passkey._another(rng, number)) for _ in range(3000)}
    assert int(number) not in drawn and low <= min(drawn) and max(drawn) <= high
    assert len(drawn) > min(0.9 * 3000, high - low - 1)


class Words:
    """A tokenizer of four bytes a token, of which it tells the first two apart."""

    bos, eos, pad = 1, 2, 3

    def encode(self, text):
        return np.frombuffer(text + b" " * (-len(text) % 4), "<u4").astype(np.int32) & 0xFFFF

    def encode_with_spans(self, text):
        start = 4 * np.arange(-(-len(text) // 4))
        return self.encode(text), np.stack([start, np.minimum(start + 4, len(text))], 1)


@pytest.mark.parametrize("coarse", [False, True])
def test_lengths_are_hit(byte_tokenizer, coarse):
    for length in (512, 2048):
        predictor, rows = recorder()
        passkey.run(predictor, [], Words() if coarse else byte_tokenizer, CONFIG, (length,), 0)
        used = [len(inputs) for inputs, _ in rows]
        assert len(used) == 3 * 2 * 2
        assert length - 8 <= min(used) and max(used) <= length


def test_a_length_too_short_for_the_prompt_is_none(byte_tokenizer):
    result = passkey.run(never, [], byte_tokenizer, CONFIG, (16, 512), 0)
    assert [row[0] for row in result["grid"]["accuracy"]] == [None] * 3
    assert [row[1] for row in result["grid"]["accuracy"]] == [0.0] * 3
    assert passkey.run(never, [], byte_tokenizer, CONFIG, (16,), 0)["chance"] is None


class OneNumber(ByteTokenizer):
    """Bytes, all digits alike, as an unknown character may be."""

    def encode(self, text, name="the text"):
        ids = super().encode(text)
        return np.where((ids >= ord("0")) & (ids <= ord("9")), ord("0"), ids)


def test_a_tokenizer_that_does_not_tell_numbers_apart_is_none():
    result = passkey.run(never, [], OneNumber(), CONFIG, (512,), 0)
    assert result["grid"]["accuracy"] == [[None]] * 3 and result["chance"] is None


@pytest.mark.parametrize("make", [tiny.metaspace, tiny.byte_fallback, lambda: tiny.byte_level("<s>", "</s>")])
def test_the_whole_text_is_encoded_and_the_tokens_with_digits_are_scored(tmp_path, make):
    """A tokenizer that puts a space in front of a text would put one into the middle of it; " 12" may be one token."""
    tokenizer = tokenizers.load(tiny.write(tmp_path, make()))
    predictor, rows = recorder()
    passkey.run(predictor, [], tokenizer, EvalConfig(depths=2, samples=6), (700,), 0)
    assert len(rows) == 2 * 2 * 6 and all(len(inputs) <= 700 for inputs, _ in rows)
    for seed in range(20):
        text, answer = passkey_text.prompt(np.random.default_rng(seed), 500, 0.5)
        piece = passkey._prompt(tokenizer, text + answer, answer.strip(), 10**6)
        scored = piece.asked
        ids = tokenizer.encode((text + answer).encode())
        assert piece.targets.tolist() == ids.tolist() and piece.inputs[0] == tokenizer.bos
        assert scored.tolist() == list(range(-len(scored), 0))
        assert tokenizer.decode(ids[scored]).strip() == answer.strip()
        assert not set(tokenizer.decode(ids[: scored[0]])[-4:]) & set("0123456789")


def test_repeatable(byte_tokenizer):
    first, second = (passkey.run(copier(), [], byte_tokenizer, CONFIG, (512,), 7) for _ in range(2))
    assert first == second
