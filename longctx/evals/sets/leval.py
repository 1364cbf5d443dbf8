"""L-Eval: exams, questions and summaries, several about each text; those that need a judge are left out."""

import re
from collections.abc import Callable

from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets import overlap
from longctx.evals.sets.folder import Folder, by_value
from longctx.evals.sets.published import Set, Texts, asked, listed

LETTERS = "ABCD"
BUDGET = 512
ANSWER, EXAM = "\nAnswer:", "\nThe answer is"
_LETTERS = re.compile(r"\(?([A-D]{1,4})\)?(?![A-Za-z])")
_SAID = re.compile(r"(?<![A-Za-z(])\(?([A-D](?:[, ]*(?:and )?[A-D])*)\)?(?![A-Za-z'])")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_FACT = re.compile(r"\s*\[fact:.*\]")


def exam(answer: str, query: Query) -> float:
    """The score of an exam: letters must be those of the gold, and some of them alone are worth 0.25; of numbers the
    last counts; other golds must be in the answer."""
    gold = query.gold[0]
    if letters := _LETTERS.fullmatch(gold):
        said, right = _letters(answer), set(letters[1])
        return 1.0 if said == right else 0.25 if said and said < right else 0.0
    if _NUMBER.fullmatch(gold):
        found = _NUMBER.findall(answer)
        return float(bool(found) and _value(found[-1]) == _value(gold))
    return overlap.holds(answer, gold)


def _letters(answer: str) -> set[str]:
    """The letters that an answer names first."""
    found = _SAID.search(answer)
    return set(found[1]) & set(LETTERS) if found else set()


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def guess(query: Query) -> float:
    """The mean score of one letter; 1/2 of true or false; else 0: no other answer is known without the text."""
    if _LETTERS.fullmatch(query.gold[0]):
        return sum(exam(letter, query) for letter in LETTERS) / len(LETTERS)
    return 0.5 if query.gold[0] in ("True", "False") else 0.0


SCORES = {"exam": exam, "f1": overlap.best(overlap.f1), "rouge": overlap.best(overlap.rouge_l)}


def tasks(folder: Folder) -> list[Texts]:
    """A task for each file, as its records say that they are scored; records for a judge are left out."""
    found = []
    for name, rows in folder.tables(r"(\w+)\.jsonl", "input", "instructions", "outputs", "evaluation").items():
        for way, some in by_value(rows, "evaluation").items():
            if way in SCORES:
                score, chance = SCORES[way], guess if way == "exam" else no_guess
                found.append(Texts(name, some, reader(way), score, BUDGET, chance=chance))
    return found


def no_guess(query: Query) -> float:
    """0: the words of an answer are not known without the text."""
    return 0.0


def reader(way: str) -> Callable[[dict], Sample]:
    """A function that reads a record that is scored in a way."""

    def read(row: dict) -> Sample:
        pairs = zip(row["instructions"], row["outputs"], strict=True)
        return Sample(row["input"], tuple(_query(way, question, *listed(gold)) for question, gold in pairs))

    return read


def _query(way: str, question: str, gold: str) -> Query:
    if way != "exam":
        return asked(f"\n\n{question}", ANSWER, [gold])
    gold = _FACT.sub("", gold).strip()
    letters = _LETTERS.match(gold)
    if letters and (letters[0] == gold or gold.startswith("(")):  # "BD", or the text of the answer behind its letter
        return asked(f"\n\n{question}", EXAM, [letters[1]], LETTERS if len(letters[1]) == 1 else ())
    return asked(f"\n\n{question}", EXAM, [gold], ("True", "False") if gold in ("True", "False") else ())


LEVAL = Set(
    "L-Eval",
    "L-Eval (arXiv 2307.11088) with short prompts of our own; ROUGE-L alone of its three, what the text says and not "
    "the fact of sci_fi, and no records for a judge or for people",
    "tpo.jsonl with instructions",
    tasks,
)
