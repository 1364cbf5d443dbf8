"""InfiniteBench: twelve tasks beyond 100K tokens."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from longctx.evals.questions import scores
from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets import overlap
from longctx.evals.sets.folder import Folder
from longctx.evals.sets.published import Score, Set, Texts, listed, one

LETTERS = "ABCD"


class Kind(NamedTuple):
    """A task: the score, the most tokens of an answer, our own question, and how an answer begins."""

    score: Score
    budget: int
    question: str
    prefix: str = "\nAnswer:"


def number(answer: str, query: Query) -> float:
    """1 where the first run of digits is the gold, else 0."""
    found = re.search(r"\d+", answer)
    return float(found is not None and found[0] == query.gold[0])


def figure(answer: str, query: Query) -> float:
    """1 where the first number, whole or decimal, has the value of the gold, else 0."""
    found = re.search(r"\d+(?:\.\d+)?", answer)
    return float(found is not None and float(found[0]) == float(query.gold[0]))


def word(answer: str, query: Query) -> float:
    """1 where the answer holds a gold as whole words, whatever the case, else 0."""
    return float(any(map(scores.answer_holds(answer), query.gold)))


def last_word(answer: str, query: Query) -> float:
    """1 where the last word is the gold, an integer, else 0."""
    said = re.sub(r"[\n.`'\":]", " ", answer).split()
    return float(
        bool(said) and re.fullmatch(r"[+-]?\d{1,30}", said[-1]) is not None and int(said[-1]) == int(query.gold[0])
    )


def steps(answer: str, query: Query) -> float:
    """The share of the values that come before the first error."""
    return scores.leading_share(re.findall(r"\d+", answer), re.findall(r"\d+", query.gold[0]))


_characters = overlap.best(overlap.f1_of_characters)
TASKS = {
    "passkey": Kind(number, 6, "\n\n{input}", "\nThe pass key is"),
    "number_string": Kind(number, 12, "\n\n{input}", "\nThe sequence of digits is"),
    "kv_retrieval": Kind(word, 50, "\n\n{input}", ""),
    "longbook_sum_eng": Kind(overlap.best(overlap.rouge_l), 1200, "\n\nSummarize the book above.", "\nSummary:"),
    "longbook_choice_eng": Kind(overlap.same_letter, 40, "\n\nQuestion about the book above: {input}\n{options}"),
    "longbook_qa_eng": Kind(overlap.best(overlap.f1), 40, "\n\nQuestion about the book above, in short: {input}"),
    "longbook_qa_chn": Kind(_characters, 40, "\n\n请根据上文用中文简短回答：{input}", "\n回答："),
    "longdialogue_qa_eng": Kind(word, 40, "\n\nWhich name does $$MASK$$ above stand for?", "\nThe name is"),
    "math_find": Kind(figure, 3, "\n\n{input}", ""),
    "math_calc": Kind(steps, 30000, "\n\nGive the value of the expression after each operation.", "\nValues:"),
    "code_run": Kind(last_word, 5, "\n\n{input}", "\nThe value is"),
    "code_debug": Kind(overlap.same_letter, 5, "\n\nOne function above has an obvious error. Which?\n{options}"),
}  # fmt: skip


def tasks(folder: Folder) -> list[Texts]:
    """A task for each file."""
    tables = folder.tables(rf"({'|'.join(TASKS)})\.jsonl", "context", "input", "answer", "options")
    return [
        Texts(name, rows, reader(TASKS[name]), TASKS[name].score, TASKS[name].budget) for name, rows in tables.items()
    ]


def reader(kind: Kind) -> Callable[[dict], Sample]:
    """A function that reads a record of a task."""

    def read(row: dict) -> Sample:
        choices = row["options"] if "{options}" in kind.question else ()
        listing = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False))
        question = kind.question.replace("{input}", row["input"]).replace("{options}", listing)
        before = f"{row['prompt']}\n\n" if row.get("prompt") else ""
        if choices:
            return one(before + row["context"], question, kind.prefix, [_letter(row["answer"], choices)], LETTERS)
        gold = [" ".join(listed(row["answer"]))] if kind.score is steps else listed(row["answer"])
        if kind.score in (figure, last_word):
            float(gold[0])  # a number, or the record is not of the form
        return one(before + row["context"], question, kind.prefix, gold)

    return read


def _letter(answer, choices: Sequence[str]) -> str:
    """The letter of the right one of four choices, which is named by its text or by the letter."""
    given = listed(answer)
    places = [choices.index(text) for text in given if text in choices] or [LETTERS.index(given[-1])]
    return LETTERS[places[0]]


INFINITEBENCH = Set(
    "InfiniteBench",
    "InfiniteBench (arXiv 2402.13718) with short prompts of our own; ROUGE-L of the whole summary; of code_debug and "
    "the choices about books the letter counts",
    "passkey.jsonl",
    tasks,
)
