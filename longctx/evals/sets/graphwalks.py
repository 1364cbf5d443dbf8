"""Graphwalks of OpenAI: nodes at a distance from one, or its parents, out of a list of edges."""

import re

from longctx.evals.questions import scores
from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets.folder import Folder, by_value
from longctx.evals.sets.published import Set, Texts, never, one

BUDGET = 2048
ANSWER = re.compile(r"final answer:\s*\[(.*?)\]", re.IGNORECASE)
OPERATION = "Operation:"


def tasks(folder: Folder) -> list[Texts]:
    """A task for each type of problem."""
    tables = folder.tables(r"[^/]*\.(?:parquet|jsonl|json)", "prompt", "answer_nodes", "problem_type")
    parts = {str(kind): some for rows in tables.values() for kind, some in by_value(rows, "problem_type").items()}
    return [Texts(kind, some, read, score, BUDGET, whole=never, chance=no_guess) for kind, some in parts.items()]


def read(row: dict) -> Sample:
    """A graph with what is asked about it at its end."""
    context, found, question = row["prompt"].rpartition(OPERATION)
    if not found:
        context, found, question = row["prompt"], "", ""
    return one(context, (found + question).rstrip(" "), "", [f"Final Answer: [{', '.join(row['answer_nodes'])}]"])


def score(answer: str, query: Query) -> float:
    """The F1 of the set of nodes behind the last "Final Answer:"; 0 where there is none."""
    found = ANSWER.findall(answer)
    return scores.set_f1(_nodes(found[-1]), _nodes(ANSWER.findall(query.gold[0])[0])) if found else 0.0


def _nodes(text: str) -> set[str]:
    return set(re.findall(r"[^\s,'\"\[\]]+", text))


def no_guess(query: Query) -> float:
    """0: no node of the answer is known without the graph."""
    return 0.0


GRAPHWALKS = Set(
    "Graphwalks",
    "Graphwalks of OpenAI (2025); the last final answer counts, on whichever line it is, and an empty one where the "
    "gold is empty is right",
    ".parquet with answer_nodes",
    tasks,
)
