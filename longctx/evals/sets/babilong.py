"""BABILong: the facts of bAbI among the sentences of books."""

import re

from longctx.evals.questions import scores
from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets.folder import Folder
from longctx.evals.sets.published import Set, Texts, by_candidates, one, single

ROOMS = "bathroom bedroom garden hallway kitchen office".split()
LABELS = {
    **dict.fromkeys(("qa1", "qa2", "qa3", "qa4", "qa11", "qa12", "qa13"), ROOMS),
    "qa5": "Bill Fred Jeff Mary apple football milk".split(),
    **dict.fromkeys(("qa6", "qa9", "qa17", "qa18"), "no yes".split()),
    "qa7": "none one three two".split(),
    "qa8": "apple football milk nothing".split(),
    "qa10": "maybe no yes".split(),
    "qa14": "bedroom cinema kitchen office park school".split(),
    "qa15": "cat mouse sheep wolf".split(),
    "qa16": "gray green white yellow".split(),
    "qa19": "e,e e,n e,s n,e n,n n,w s,e s,s s,w w,n w,s w,w".split(),
    "qa20": "bedroom bored garden hungry kitchen thirsty tired".split(),
}
TASK = "A few facts are hidden in the text below, in the order in which they happened.\n"
QUESTION = "\nQuestion about the facts: {}\nAnswer with as few words as you can."
PATHS = (  # the task and the length, in both orders in which the set is published
    r"(qa\d+)/(\d+[kM])(?:[-/][-\w]+)?\.(?:json|jsonl|parquet)",
    r"(\d+[kM])/(qa\d+)(?:[-/][-\w]+)?\.(?:json|jsonl|parquet)",
)


def tasks(folder: Folder) -> list[Texts]:
    """A task for each of bAbI's and each length."""
    found = {}
    for pattern in PATHS:
        for name, rows in folder.tables(pattern, "input", "question", "target").items():
            task, length = sorted(name.split(), key=lambda part: not part.startswith("qa"))
            if task in LABELS:
                found.setdefault(
                    f"{task} {length}",
                    Texts(f"{task} {length}", rows, _reader(task), score, 20, whole=single, chance=guess),
                )
    return list(found.values())


def _reader(task: str):
    def read(row: dict) -> Sample:
        said = row["question"].lower()
        labels = [label for label in LABELS[task] if not re.search(rf"\b{re.escape(label.lower())}\b", said)]
        gold = [row["target"]] if row["target"] in LABELS[task] else row["target"].split(",")
        if not set(gold) <= set(LABELS[task]):
            raise ValueError(f"target={row['target']!r} is no label of {task}")
        return one(TASK + row["input"], QUESTION.format(row["question"]), "\nAnswer:", gold, labels)

    return read


def score(answer: str, query: Query) -> float:
    """1 where the first sentence names the labels of the gold and no other that is not in the question, else 0."""
    sentence = answer.lower().split(".")[0].split("<context>")[0].split("<example>")[0]
    others = [label for label in query.candidates if label not in query.gold]
    return float(all(scores.only_held(sentence, (gold, *others)) for gold in query.gold))


def guess(query: Query) -> float:
    """The chance of one label; 0 where several are asked for."""
    return by_candidates(query) if len(query.gold) == 1 else 0.0


BABILONG = Set(
    "BABILong",
    "BABILong (arXiv 2406.10149) with a short prompt of our own without examples; labels count as whole words",
    "qa1/4k.json",
    tasks,
)
