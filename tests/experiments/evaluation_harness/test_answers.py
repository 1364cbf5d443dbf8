"""Answers in the order of requests, by models that are no models: what they say depends on every token before."""

import numpy as np
import pytest

from experiments.evaluation_harness import scoring
from experiments.evaluation_harness.answers import Answers
from experiments.evaluation_harness.requests import Reader, continued
from longctx.data import chat
from longctx.data.tokenizers import ByteTokenizer
from longctx.errors import UserError
from longctx.evals.batches import Piece, Prediction

BYTES = ByteTokenizer()
TEMPLATE = """
{%- for message in messages %}<{{ message.role }}>{{ message.content }}<end>{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""


class Fake:
    """Reads a row as its documents are; writes the prompt's bytes again, each one more than it was.

    asked: the number of targets that were asked for, of each batch. batches: (prompts, count, length) of generations.
    """

    def __init__(self):
        self.asked, self.batches = [], []

    def __call__(self, batch) -> Prediction:
        nll, top = np.full(batch["tokens"].shape, np.nan), np.zeros(batch["tokens"].shape, bool)
        for row, column in zip(*np.nonzero(batch["weights"]), strict=True):
            first = column - batch["positions"][row, column]
            assert (batch["segments"][row, first : column + 1] == batch["segments"][row, column]).all()
            nll[row, column] = told(batch["tokens"][row, first : column + 1], batch["targets"][row, column])
            top[row, column] = batch["targets"][row, column] > batch["tokens"][row, column]
        self.asked.append(int(batch["weights"].sum()))
        return Prediction(nll, top)

    def generate(self, prompts, count, length, stop, enough):
        self.batches.append((len(prompts), count, length))
        rows = [(np.resize(prompt[1:], count) + 1).tolist() for prompt in prompts]
        ends = [next((n for n in range(1, count) if enough(i, row[:n])), count) for i, row in enumerate(rows)]
        return [np.array(row[:end], np.int32) for row, end in zip(rows, ends, strict=True)]


def told(before, target) -> float:
    """The nats of a token behind others."""
    return float(np.dot(np.asarray(before, np.float64), np.arange(1, len(before) + 1)) % 7 + target / 1000)


def answers(length=64, **more) -> Answers:
    return Answers(Fake(), Reader(BYTES, 259, length, **more), BYTES.ends)


@pytest.fixture
def short_rows(monkeypatch):
    monkeypatch.setattr(scoring, "SHORTEST_ROW", 16)


def test_likelihoods_are_those_of_each_request_alone(short_rows):
    pairs = [("AB" * (i % 5), f"{chr(98 + i % 7)}{chr(97 + i % 25)}" * (1 + i % 3)) for i in range(60)]
    one = answers()
    found = one.likelihoods(pairs)
    for pair, (log, greedy) in zip(pairs, found, strict=True):
        piece, _ = continued(one.reader, *pair)
        row = np.append(piece.inputs, piece.targets[-1])
        places = range(len(row) - len(piece.asked), len(row))
        assert log == pytest.approx(-sum(told(row[:at], row[at]) for at in places), abs=1e-9)
        assert greedy == all(row[at] > row[at - 1] for at in places)
    assert {greedy for _, greedy in found} == {True, False}


def test_rows_are_shared_and_equal_requests_read_once(short_rows):
    pairs, one = [("abc", "de")] * 50 + [("", "xyz")] * 2 + [("a" * 40, "b")], answers()
    found = one.likelihoods(pairs)
    assert len({*found[:50]}) == 1 and found[50] == found[51] != found[0]
    assert one.model.asked == [1, 2 + 3], "a row of 64 tokens, and one of 16 for the two others"


def test_the_sizes_of_rows():
    assert [scoring.row_size(n, 3000) for n in (1, 1024, 1025, 2048, 2049)] == [1024, 1024, 2048, 2048, 3000]
    assert scoring.row_size(5, 64) == 64


def test_a_model_without_numbers_is_refused():
    piece = Piece(np.arange(3), np.arange(1, 4), np.arange(-2, 0))
    nan = lambda batch: Prediction(np.full(batch["tokens"].shape, np.nan), np.zeros(batch["tokens"].shape, bool))
    with pytest.raises(UserError, match="NaN"):
        scoring.score(nan, [piece], 64, 0)


def test_a_whole_text_is_the_sum_of_its_windows(short_rows):
    text = "0123456789" * 3
    long, short, none = answers(length=8).whole([text, "01", ""])
    ids = [BYTES.bos, *text.encode()]
    told_by = [max(0, min(8 * (at // 8) + 8, 30) - 8) for at in range(30)]  # where the window of a target begins
    assert long == pytest.approx(-sum(told(ids[first : at + 1], ids[at + 1]) for at, first in enumerate(told_by)))
    assert short == pytest.approx(-told(ids[:1], ids[1]) - told(ids[:2], ids[2])) and none == 0


def test_texts_are_written_in_the_order_of_requests(short_rows):
    asked = [(f"{i:02}" * (1 + i % 4), {"max_gen_toks": 4 + i % 2, "until": ["3"] if i % 3 else []}) for i in range(20)]
    one = answers()
    found = one.written(asked)
    for (context, said), text in zip(asked, found, strict=True):
        whole = "".join(chr(ord(letter) + 1) for letter in (context * 3)[: said["max_gen_toks"]])
        assert text == (whole.partition("3")[0] if said["until"] else whole)
    assert sum(rows for rows, *_ in one.model.batches) == 20
    assert {(count, length) for _, count, length in one.model.batches} == {(4, 16), (5, 16)}


def test_what_is_cut_is_counted():
    one = answers(length=16, cut=True)
    one.likelihoods([("a" * 30, "b"), ("a", "b")])
    one.written([("a" * 30, {"max_gen_toks": 4})])
    assert one.cut == 2


def test_conversations_go_on_with_the_last_message_where_it_has_begun(tmp_path):
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    one = answers()
    one.template = chat.load(tmp_path)
    messages = [{"role": "user", "content": "It is what?"}, {"role": "assistant", "content": " It is "}]
    assert one.conversation(messages[:1], True) == "<user>It is what?<end><assistant>"
    assert one.conversation(messages, False) == "<user>It is what?<end><assistant> It is"
