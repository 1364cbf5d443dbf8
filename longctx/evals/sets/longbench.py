"""LongBench, the first version: 21 tasks in English, Chinese and code, and the 13 of LongBench-E by length."""

import json
from collections.abc import Callable
from typing import NamedTuple

from longctx.evals.questions import scores
from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets import overlap
from longctx.evals.sets.folder import Folder
from longctx.evals.sets.published import Score, Set, Texts, listed, one

QA = "{context}\n\nQuestion about the text above: {input}\nAnswer in as few words as you can.\nAnswer:"
QA_CHINESE = "{context}\n\n{input}\n请根据上文用中文简短回答。\n回答："
SUMMARY = "{context}\n\nSummarize the text above. {input}\nSummary:"
SUMMARY_CHINESE = "{context}\n\n请用中文概括上文。{input}\n概括："
EXAMPLES = "{context}\n{input}"
RETRIEVAL = (
    '{context}\n\nWhich of the paragraphs above is this a summary of?\n{input}\nSay it like "Paragraph 1".\nAnswer:'
)
RETRIEVAL_CHINESE = "{context}\n\n下面的摘要出自上文的哪一段？\n{input}\n请按“段落1”的格式回答。\n回答："
COUNT = "{context}\n\nHow many of the paragraphs above are there if those that repeat another do not count?\nAnswer:"
CODE = "{context}{input}Next line of code:\n"
ENDS = (" ", "\t")  # what no prompt ends with: the answer begins with a space


class Kind(NamedTuple):
    """A task: the score, the most tokens of an answer, and our own prompt."""

    score: Score
    budget: int
    prompt: str


def classes(answer: str, query: Query) -> float:
    """1 over the number of classes that the first line names, where the gold is one of them, else 0; a class that is
    part of the gold does not count."""
    line, gold = scores.first_line(answer), query.gold[0]
    named = [each for each in query.candidates if each in line and (each == gold or each not in gold)]
    return 1 / len(named) if gold in named else 0.0


def line_of_code(answer: str, gold: str) -> float:
    """The edit similarity of the first line that holds no mark of code and no comment."""
    lines = answer.lstrip("\n").split("\n")
    code = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return overlap.edit_similarity(code.strip(), gold)


_f1, _zh = overlap.best(overlap.f1), overlap.best(overlap.f1_of_characters)
_rouge, _rouge_zh = overlap.best(overlap.rouge_l), overlap.best(overlap.rouge_l_of_characters)

TASKS = {
    "narrativeqa": Kind(_f1, 128, QA),
    "qasper": Kind(_f1, 128, QA),
    "multifieldqa_en": Kind(_f1, 64, QA),
    "multifieldqa_zh": Kind(_zh, 64, QA_CHINESE),
    "hotpotqa": Kind(_f1, 32, QA),
    "2wikimqa": Kind(_f1, 32, QA),
    "musique": Kind(_f1, 32, QA),
    "dureader": Kind(_rouge_zh, 128, QA_CHINESE),
    "gov_report": Kind(_rouge, 512, SUMMARY),
    "qmsum": Kind(_rouge, 512, QA),
    "multi_news": Kind(_rouge, 512, SUMMARY),
    "vcsum": Kind(_rouge_zh, 512, SUMMARY_CHINESE),
    "trec": Kind(classes, 64, EXAMPLES),
    "triviaqa": Kind(overlap.of_first_line(_f1), 32, EXAMPLES),
    "samsum": Kind(overlap.of_first_line(_rouge), 128, EXAMPLES),
    "lsht": Kind(classes, 64, EXAMPLES),
    "passage_count": Kind(overlap.share_of_numbers, 32, COUNT),
    "passage_retrieval_en": Kind(overlap.share_of_numbers, 32, RETRIEVAL),
    "passage_retrieval_zh": Kind(overlap.share_of_numbers, 32, RETRIEVAL_CHINESE),
    "lcc": Kind(overlap.best(line_of_code), 64, CODE),
    "repobench-p": Kind(overlap.best(line_of_code), 64, CODE),
}


def tasks(folder: Folder) -> list[Texts]:
    """The tasks whose files are in the folder, with the prompts of its dataset2prompt.json where it has one."""
    prompts = [json.loads(folder.text(name)) for name, _ in folder.matching(r"dataset2prompt\.json")]
    own = prompts[0] if prompts and isinstance(prompts[0], dict) else {}
    pattern = rf"((?:{'|'.join(TASKS)})(?:_e)?)\.jsonl"
    found = []
    for name, rows in folder.tables(pattern, "input", "context", "answers", "all_classes").items():
        kind = TASKS[name.removesuffix("_e")]
        prompt = own.get(name.removesuffix("_e"), kind.prompt)
        found.append(Texts(name, rows, reader(prompt), kind.score, kind.budget))
    return found


def reader(prompt: str) -> Callable[[dict], Sample]:
    """A function that reads a record into a prompt with {context} and {input}."""
    before, _, after = prompt.partition("{context}")

    def read(row: dict) -> Sample:
        question = after.replace("{input}", row["input"]).rstrip("".join(ENDS))
        return one(before + row["context"], question, "", listed(row["answers"]), row["all_classes"] or ())

    return read


LONGBENCH = Set(
    "LongBench",
    "LongBench (arXiv 2308.14508): prompts of its dataset2prompt.json if that is in the folder, else short ones of our "
    "own; ROUGE-L of whole texts, Chinese by characters and not by words",
    "hotpotqa.jsonl with all_classes",
    tasks,
)
