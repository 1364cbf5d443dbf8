"""LongBench v2: 503 questions with four answers each."""

from longctx.evals.questions.question import Sample
from longctx.evals.sets import overlap
from longctx.evals.sets.folder import Folder, by_value
from longctx.evals.sets.published import Set, Texts, one

LETTERS = tuple("ABCD")
PREFIX = "\nThe correct answer is"


def tasks(folder: Folder) -> list[Texts]:
    """A task for each length class: short, medium and long."""
    keys = ("question", "choice_A", "choice_B", "choice_C", "choice_D", "answer", "context", "length")
    found = folder.tables(r"[^/]*\.(?:json|jsonl|parquet)", *keys)
    parts = {str(value): rows for table in found.values() for value, rows in by_value(table, "length").items()}
    return [Texts(name, rows, read, overlap.same_letter, 128) for name, rows in parts.items()]


def read(row: dict) -> Sample:
    """A text with its question."""
    if row["answer"] not in LETTERS:
        raise ValueError(f"answer={row['answer']!r} is no letter")
    choices = "\n".join(f"({letter}) {row[f'choice_{letter}']}" for letter in LETTERS)
    question = f"\n\nQuestion about the text above: {row['question']}\n{choices}"
    return one(row["context"], question, PREFIX, [f"({row['answer']})"], [f"({letter})" for letter in LETTERS])


LONGBENCH_V2 = Set(
    "LongBench v2",
    "LongBench v2 (arXiv 2412.15204) without reasoning before the answer; a short prompt of our own in its form",
    "data.json with choice_A",
    tasks,
)
