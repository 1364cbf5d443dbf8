"""LooGLE: short and long dependencies in recent texts, asked by questions, gaps to fill and summaries."""

import ast
import json

from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets import overlap
from longctx.evals.sets.folder import Folder
from longctx.evals.sets.published import Set, Texts, asked, listed

QUESTION = "\n\nQuestion about the text above: {}"
GAPS = (
    "\n\nIn the words below, each <mask-n> stands for a person, a place or an organization of the text above, the same "
    'everywhere. Say which, as JSON such as {{"<mask-0>": "Bob"}}.\n{}'
)
SUMMARY = "\n\nSummarize the text above."
ANSWER = "\nAnswer:"
BUDGETS = {
    "shortdep_qa": 300,
    "shortdep_cloze": 50,
    "longdep_qa": 500,
    "longdep_summarization": 500,
    "summarization": 500,
}


def gaps(answer: str, query: Query) -> float:
    """The share of the masks that are filled with the very words of the gold."""
    right, said = json.loads(query.gold[0]), _filled(answer)
    return sum(said.get(mask) == words for mask, words in right.items()) / len(right)


def _filled(answer: str) -> dict:
    """What an answer fills in, as JSON or as Python writes it; {} where that cannot be read."""
    start, end = answer.find("{"), answer.rfind("}")
    said = answer[start : end + 1] if 0 <= start < end else ""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(said)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, dict) else {}
    return {}


def tasks(folder: Folder) -> list[Texts]:
    """A task for each file."""
    pattern = rf"({'|'.join(BUDGETS)})(?:[/_-]?(?:test|train)[-\w]*)?(?:/\d+)?\.(?:jsonl|json|parquet)"
    tables = folder.tables(pattern, "input", "qa_pairs", "output", "title")
    tables |= folder.tables(pattern, "context", "question", "answer", "title", "doc_id")
    score = {"shortdep_cloze": gaps}
    return [
        Texts(name, rows, read, score.get(name, overlap.best(overlap.rouge_l)), BUDGETS[name])
        for name, rows in tables.items()
    ]


def read(row: dict) -> Sample:
    """A text with all that is asked about it."""
    if "context" in row:
        return Sample(row["context"], (_query(row["question"], row["answer"]),))
    pairs = row["qa_pairs"]
    if isinstance(pairs, str):
        pairs = [] if pairs.lower() == "none" else ast.literal_eval(pairs)
    if not pairs:
        return Sample(row["input"], (asked(SUMMARY, "\nSummary:", listed(row["output"])),))
    return Sample(row["input"], tuple(_query(pair["Q"], pair["A"]) for pair in pairs))


def _query(question: str, gold) -> Query:
    if "<mask-" in question:
        words = gold if isinstance(gold, dict) else ast.literal_eval(gold)
        return asked(GAPS.format(question), ANSWER, [json.dumps(words, ensure_ascii=False)])
    return asked(QUESTION.format(question) if question.strip() else SUMMARY, ANSWER, listed(gold))


LOOGLE = Set(
    "LooGLE",
    "LooGLE (arXiv 2311.04939) with short prompts of our own; gaps by exact match, all else by ROUGE-L, which the "
    "paper gives beside a judge",
    "shortdep_qa.jsonl",
    tasks,
)
