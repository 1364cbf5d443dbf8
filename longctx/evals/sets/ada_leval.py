"""Ada-LEval: parts of a book to put in order, and the best of many answers to a question."""

import re

from longctx.evals.questions import scores
from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets.folder import Folder
from longctx.evals.sets.published import Set, Texts, one

SEGMENTS = 4
BEST = "\n\nWhich of the answers above helps most with the question? Give its name alone, such as A4."
_DIGIT = re.compile(r"\d+")


def tasks(folder: Folder) -> list[Texts]:
    """A task for each file."""
    sort = folder.tables(r"(textsort_\d+k)\.json", "prompt", "answer", "para_offset")
    select = folder.tables(r"(stackselect_\d+k)\.json", "question", "all_answers", "answer")
    return [
        *(Texts(name, rows, read_order, order, 64, chance=one_in_24) for name, rows in sort.items()),
        *(Texts(name, rows, read_answers, chosen, 16) for name, rows in select.items()),
    ]


def read_order(row: dict) -> Sample:
    """Parts of a text, as the set asks to put them in order."""
    gold = [int(digit) for digit in _DIGIT.findall(str(row["answer"]))]
    if sorted(gold) != list(range(1, SEGMENTS + 1)):
        raise ValueError(f"answer={row['answer']!r} is no order of {SEGMENTS}")
    return one(row["prompt"].rstrip(" "), "", "\nAnswer:", [str(gold)])


def order(answer: str, query: Query) -> float:
    """1 where the first four numbers behind "Answer:", or of the whole answer, are those of the gold, else 0."""
    said = _DIGIT.findall(answer.rpartition("Answer:")[2])[:SEGMENTS]
    return float(said == _DIGIT.findall(query.gold[0]))


def one_in_24(query: Query) -> float:
    """1 over the number of orders of four."""
    return 1 / 24


def read_answers(row: dict) -> Sample:
    """A question and its answers, A1 and so on; the name of the best is asked for."""
    names = [f"A{i + 1}" for i in range(len(row["all_answers"]))]
    if row["answer"] not in names:
        raise ValueError(f"answer={row['answer']!r} is none of its {len(names)}")
    answers = "\n\n".join(f"{name}:\n{text}" for name, text in zip(names, row["all_answers"], strict=True))
    return one(f"Question: {row['question']}\n\n{answers}", BEST, "\nAnswer:", [row["answer"]], names)


def chosen(answer: str, query: Query) -> float:
    """1 where the first answer that is named is the gold, else 0."""
    return float(scores.first_named(answer, query.candidates or query.gold) == query.gold[0])


ADA_LEVAL = Set(
    "Ada-LEval",
    "Ada-LEval (arXiv 2404.06480); a short prompt of our own for the best answer, the first that is named counts",
    "textsort_2k.json",
    tasks,
)
