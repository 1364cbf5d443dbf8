"""L-CiteEval: eleven tasks on numbered passages, which the answers cite."""

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from longctx.evals.questions import scores
from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets import overlap
from longctx.evals.sets.folder import Folder
from longctx.evals.sets.published import Score, Set, Texts, listed, one

COUNTED = re.compile(r"The little penguin counted (\d+) ★")
PASSAGE = "Passage [{}]: {}"
CITE = ' Cite the passages behind each sentence, such as "[3][7]".'
STARS = (
    "\n\nWhich numbers of ★ did the little penguin count, and in which passages? Answer in the form "
    '{"little_penguin": [1, 2], "passage_id": [3, 4]}, in the order of the passages.'
)
QUESTION, SUMMARY = "\n\nQuestion about the passages above: {}", "\n\nSummarize the passages above. {}"
_CITED = re.compile(r"\s?\[\d+\]")


class Kind(NamedTuple):
    """A task: the score, the most tokens of an answer and our own question."""

    score: Score
    budget: int
    question: str


def without_citations(score: Score) -> Score:
    """A score of the first line of an answer, what it cites left out."""
    return lambda answer, query: score(_CITED.sub("", scores.first_line(answer)), query)


def stars(answer: str, query: Query) -> float:
    """The mean of the F1 of the numbers that were counted and the F1 of the passages."""
    said, right = _counts(answer), _counts(query.gold[0])
    return sum(map(scores.set_f1, said, right)) / 2


def _counts(text: str) -> tuple[set[int], set[int]]:
    """(numbers, passages) of the first braces; empty where they cannot be read."""
    start, end = text.find("{"), text.find("}")
    try:
        found = json.loads(text[start : end + 1]) if 0 <= start < end else {}
    except (ValueError, RecursionError):
        found = {}
    integers = lambda value: {x for x in value if isinstance(x, int)} if isinstance(value, list) else set()
    return integers(found.get("little_penguin")), integers(found.get("passage_id"))


_QA = Kind(without_citations(overlap.best(overlap.f1)), 200, QUESTION + CITE)
_SUMMARY = Kind(without_citations(overlap.best(overlap.rouge_l)), 800, SUMMARY + CITE)
TASKS = {
    **dict.fromkeys(("narrativeqa", "natural_questions", "hotpotqa", "2wikimultihopqa", "dialsim", "locomo"), _QA),
    **dict.fromkeys(("gov_report", "multi_news", "qmsum"), _SUMMARY),
    "niah": Kind(without_citations(overlap.best(overlap.recall)), 128, QUESTION + CITE),
    "counting_stars": Kind(stars, 128, STARS),
}


def tasks(folder: Folder) -> list[Texts]:
    """A task for each file; the folders of L-CiteEval-Length and -Hardness are part of the name."""
    pattern = rf"(?:L-CiteEval-(Data|Length|Hardness)[/_])?({'|'.join(TASKS)})(?:/[-\w]+)*\.(?:json|jsonl|parquet)"
    return [
        Texts(
            name, rows, _reader(TASKS[name.split()[-1]]), TASKS[name.split()[-1]].score, TASKS[name.split()[-1]].budget
        )
        for name, rows in folder.tables(pattern, "answer", "docs", "length").items()
    ]


def _reader(kind: Kind) -> Callable[[dict], Sample]:
    def read(row: dict) -> Sample:
        docs = [_passage(each) for each in row["docs"]]
        context = "\n".join(PASSAGE.format(i + 1, text) for i, text in enumerate(docs))
        if kind.score is stars:
            found = [(int(told[1]), i + 1) for i, text in enumerate(docs) if (told := COUNTED.search(text))]
            if not found:
                raise ValueError("no passage tells of stars")
            gold = [json.dumps({"little_penguin": [n for n, _ in found], "passage_id": [i for _, i in found]})]
        else:
            gold = listed(row["answer"])
        return one(context, kind.question.replace("{}", row.get("question") or "", 1), "\nAnswer:", gold)

    return read


def _passage(each) -> str:
    """A passage that a file gives as a text, or as one with a title."""
    if isinstance(each, str):
        return each.strip("\n")
    return "\n".join(filter(None, [each.get("title"), each["text"].strip("\n")]))


LCITEEVAL = Set(
    "L-CiteEval",
    "L-CiteEval (arXiv 2410.02115) with short prompts of our own without an example; whether passages support what "
    "cites them, which a model judges, is left out, but for counting_stars",
    "hotpotqa.json with docs",
    tasks,
)
