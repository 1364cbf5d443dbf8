"""What the documents of generated tasks say, each read in another way than its solver reads it."""

import itertools
import json
import re

import numpy as np
import pytest

from longctx.data import tokenizers
from longctx.data.document import Document
from longctx.data.generated import (
    classes,
    fill_in_the_middle,
    functions,
    key_value,
    paragraphs,
    repetitions,
    retrieval,
    sorting,
    traces,
    writing,
)

LINES = [" ".join(writing.coined(np.random.default_rng(i), 6)) for i in range(200)]
DOCUMENTS = [Document("a", "\n\n".join(LINES[:100]).encode()), Document("b", "\n\n".join(LINES[100:]).encode())]


def written(kind, seed, size=1500):
    """(text, answers) of a document."""
    made = kind(0.1).write(np.random.default_rng(seed), size, DOCUMENTS)
    return made.text.decode(), [made.text[first:end].decode() for first, end in made.answers]


def test_retrieval_asks_for_several_of_the_lines_once():
    asked = []
    for seed in range(30):
        text, answers = written(retrieval.Retrieval, seed, 4000)
        hay, questions = text.split(retrieval.ASKED)
        said = dict(re.findall(r"^([a-z]{8}): (\d{5})$", hay, re.MULTILINE))
        pairs = [line.split(": ") for line in questions.splitlines()]
        assert [said[key] for key, _ in pairs] == [value for _, value in pairs] == [a.strip() for a in answers]
        assert len({key for key, _ in pairs}) == len(pairs) <= len(said)
        asked.append(len(pairs))
    assert min(asked) == 1 and max(asked) >= 5


def test_fillers_are_the_text_of_the_run_half_of_the_time():
    own = ["sun is yellow" not in written(retrieval.Retrieval, seed)[0] for seed in range(60)]
    assert 0.25 < np.mean(own) < 0.75


def test_the_pairs_are_json():
    for seed in range(10):
        text, answers = written(key_value.KeyValue, seed)
        pairs, *questions = text.removeprefix(key_value.TASK[:-1]).splitlines()
        said = [re.fullmatch(r'Key "(.*)": "(.*)"', question).groups() for question in questions]
        assert all(json.loads(pairs)[key] == value for key, value in said) and len(said) == len(answers)
        assert len(json.loads(pairs)) >= 13
        assert all(re.fullmatch(r"\w{8}-\w{4}-4\w{3}-[89ab]\w{3}-\w{12}", key) for key, _ in said)


def test_middles_are_cut_in_both_orders_and_everywhere():
    psm, places = [], []
    for seed in range(200):
        text, (middle, *_) = written(fill_in_the_middle.FillInTheMiddle, seed, 1000)
        asked, _, rest = text.partition(fill_in_the_middle.MIDDLE)
        assert rest.startswith(middle)
        psm.append(asked.startswith(fill_in_the_middle.PREFIX))
        prefix, suffix = re.findall(r"<<prefix>>([^<]*)", asked)[0], re.findall(r"<<suffix>>([^<]*)", asked)[0]
        middle = middle.removesuffix(fill_in_the_middle.END)
        assert any(prefix + middle + suffix in document.text.decode() for document in DOCUMENTS)
        whole = len(prefix + middle + suffix)
        places += [len(prefix) / whole, 1 - len(suffix) / whole]
    assert 0.4 < np.mean(psm) < 0.6
    assert (abs(np.histogram(places, 4, (0, 1))[0] / len(places) - 0.25) < 0.08).all()


def test_paragraphs_come_in_their_order():
    text, (order, *_) = written(paragraphs.Paragraphs, 1)
    shown = re.findall(r"^\[\d+\] (.*)$", text.partition(paragraphs.ORDER)[0], re.MULTILINE)
    told = [shown[int(label) - 1] for label in order.split()]
    assert len(told) > 10 and sorted(told) == sorted(shown) and shown != told
    start = next(i for i, line in enumerate(LINES) if told[1] == line)
    assert told[1:] == LINES[start : start + len(told) - 1]  # the first may be a part of one


def test_keywords_ask_by_word_and_by_place():
    kinds = set()
    for seed in range(20):
        text, answers = written(paragraphs.Keywords, seed)
        hay, questions = text.removeprefix(paragraphs.TEXT).split(paragraphs.OVER)[:2]
        parts = hay.strip().split("\n\n")
        line, answer = questions.splitlines()[0], answers[0].strip()
        kinds.add(line.split(" ")[0])
        asked = line.strip(":").split(" ")[-1]
        if line.startswith("Paragraph"):
            assert parts[int(asked) - 1] == answer
        else:
            assert [part for part in parts if asked in part.split()] == [answer]
    assert kinds == {"Paragraph", "The"}


@pytest.mark.parametrize("first, second", [("0", "0"), ("999", "001"), ("58", "67"), ("7" * 50, "8" * 50)])
def test_the_trace_of_an_addition_ends_in_the_sum(first, second):
    *steps, result, _, _ = traces.added(first, second).split("\n")
    assert int(result.removeprefix("Sum: ")) == int(first) + int(second) and len(steps) == len(first)
    for place, step in enumerate(steps):
        x, y, carry, total, write, carried = map(int, re.findall(r"\d+", step)[1:])
        assert step.startswith(f"digit {place}:")
        assert (x, y) == tuple(int(number) // 10**place % 10 for number in (int(first), int(second)))
        assert x + y + carry == total == 10 * carried + write


def test_the_traces_of_sorting_and_of_a_path():
    trace = traces.ordered([5, 3, 9, 3])
    assert (
        trace == "left 5 3 9 3: least 3\nleft 5 9 3: least 3\nleft 5 9: least 5\nleft 9: least 9\nSorted: 3 3 5 9\n\n"
    )
    assert traces.trace("Edges a>b, c>a, b>c. Start at c, 4 steps.\n") == (
        "step 1: c>a\nstep 2: a>b\nstep 3: b>c\nstep 4: c>a\nEnd: a\n\n"
    )


def test_a_document_of_traces_has_all_kinds():
    text, _ = written(traces.Traces, 0, 6000)
    assert all(f"\n\n{word} " in text for word in ("Add", "Sort", "Edges"))


def test_labels_are_the_patterns_own():
    text, answers = written(classes.Classes, 3, 4000)
    pairs = re.findall(r"^\d\d([a-z]{4})\d\d: ([a-z]{6})$", text, re.MULTILINE)
    labels = {}
    assert all(labels.setdefault(pattern, label) == label for pattern, label in pairs)
    assert len(set(labels.values())) == len(labels) > 1
    assert len(answers) == len(pairs) - len(labels) and text.endswith(answers[-1])


@pytest.mark.parametrize("bits", [1, 3, 5])
def test_values_of_all_functions(bits):
    table, inputs = functions.table(bits), ["".join(x) for x in itertools.product("01", repeat=bits)]
    values = [[functions.value(*f, x) for x in inputs] for f in functions.functions(bits)]
    np.testing.assert_array_equal(table, values)
    assert len({tuple(row) for row in values}) == len(values), "no function comes twice"


def test_a_conjunction_and_a_parity():
    assert functions.value("and", ((0, "1"), (2, "0")), "100") == 1
    assert functions.value("and", ((0, "1"), (2, "0")), "101") == 0
    assert functions.value("parity", ((0, "1"), (2, "1")), "101") == 0
    assert functions.value("parity", ((0, "1"), (2, "1")), "001") == 1


def test_examples_are_those_of_one_function_and_half_are_ones():
    ones = []
    for seed in range(20):
        text, answers = written(functions.Functions, seed)
        block = text.split("\n\n")[0].split("\n")
        pairs = [line.split() for line in block[1:]]
        assert any(
            all(functions.value(*f, x) == int(y) for x, y in pairs) for f in functions.functions(len(pairs[0][0]))
        )
        ones += [int(y) for _, y in pairs]
        assert {answer.strip() for answer in answers} <= {"0", "1"}
    assert 0.45 < np.mean(ones) < 0.8


def test_hints_name_the_number_after():
    text, (answer, *_) = written(sorting.Sorting, 5)
    numbers = [int(word) for word in text.split("\n")[0].split()[1:]]
    *hints, result = answer.strip().split("\n")
    assert result == "Sorted: " + " ".join(map(str, sorted(numbers)))
    for number, hint in zip(numbers, hints, strict=True):
        after = min((other for other in numbers if other > number), default="nothing")
        assert hint == f"after {number} comes {after}"


def test_repetitions_are_numbered_or_counted():
    kinds = {repetitions.COUNTED: 0, repetitions.ASKED: 0}
    for seed in range(20):
        text, answers = written(repetitions.Repetitions, seed)
        for kind, block in re.findall(r"(<<counted>>\n|<<repeated>>\n)([^<]*)", text):
            kinds[kind] += 1
            lines = block.strip().split("\n")
            if kind == repetitions.COUNTED:
                assert lines == [f"{i + 1}. {lines[0].removeprefix('1. ')}" for i in range(len(lines))]
            else:
                *lines, last = lines
                assert last == f"How often? {len(lines)}" and len(set(lines)) == 1
    assert min(kinds.values()) > 5


def test_a_solver_reads_the_document():
    """Another value in the text is another answer."""
    for kind in (retrieval.Retrieval, key_value.KeyValue):
        made = kind(0.1).write(np.random.default_rng(0), 1500, DOCUMENTS)
        first, end = made.answers[0]
        before, answer = made.text[:first].decode(), made.text[first:end].decode()
        value = re.search(r"[\w-]+", answer)[0]
        other = kind(0.1).solve(before.replace(value, value[::-1]), DOCUMENTS)
        assert other == answer.replace(value, value[::-1]) != answer


def test_pieces_are_paragraphs_or_lines_or_words():
    assert writing.pieces("a b\nc\n\nd\n \ne\n\n\nd\n\nf", 10) == ["a b\nc", "d", "e", "f"]
    assert writing.pieces("a b\nc\n\nd\ne", 10) == ["a b", "c", "d", "e"]
    assert writing.pieces("a bb ccc\ndddd eeeeeeee", 7) == ["a bb", "ccc", "dddd e", "e e e e", "e e e"]
    assert writing.pieces("aa bb cc dd", 8) == ["aa bb cc", "dd"]
    assert writing.pieces(" \n ", 8) == []


def test_a_passage_is_of_one_document_that_is_long_enough():
    short = [Document(str(i), b"tiny") for i in range(3)]
    for seed in range(20):
        text = writing.passage(np.random.default_rng(seed), [*short, *DOCUMENTS], 400)
        assert len(text) == 400 and any(text in document.text.decode() for document in DOCUMENTS)
    assert 0 < len(writing.passage(np.random.default_rng(0), short, 50)) <= 50


class ManyTokens(tokenizers.ByteTokenizer):
    """Three tokens for every byte: more than any text of so many bytes should have."""

    def encode_with_spans(self, text, special=False, name="the text"):
        ids, spans = super().encode_with_spans(text, special, name)
        return np.repeat(ids, 3), np.repeat(spans, 3, axis=0)


def test_a_document_that_does_not_fit_is_cut():
    kind = sorting.Sorting(0.1)
    made = kind.document(np.random.default_rng(0), ManyTokens(), 120, DOCUMENTS)
    assert len(made.ids) == len(made.spans) == len(made.counts) == 120
    longer = kind.document(np.random.default_rng(0), ManyTokens(), 3000, DOCUMENTS)
    assert 2500 < len(longer.ids) <= 3000 and len(longer.ids) == 3 * len(longer.written.text), "written for its tokens"
