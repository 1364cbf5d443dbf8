"""The output of RULER's own scripts: prompts that were made for a tokenizer and a length."""

import re

from longctx.evals.questions.question import Sample
from longctx.evals.sets import overlap
from longctx.evals.sets.folder import Folder
from longctx.evals.sets.published import Score, Set, Texts, always, listed, one, single

BUDGETS = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}
OTHERS = 128  # for a task under a name that is none of RULER's
LEFT_OUT = re.compile(r"^(?:data|synthetic)$")  # folders that say nothing about a task


def tasks(folder: Folder) -> list[Texts]:
    """A task for each file, named by the folders that it is in."""
    found = []
    for path, rows in folder.tables(r"((?:[^/]+/)*validation)\.jsonl", "index", "input", "outputs").items():
        name = "/".join(part for part in path.split("/")[:-1] if not LEFT_OUT.match(part)) or folder.path.name
        kind = name.rpartition("/")[2]
        budget = next((tokens for start, tokens in BUDGETS.items() if kind.startswith(start)), OTHERS)
        found.append(Texts(name, rows, read, score_of(kind), budget, whole=always if kind.startswith("qa") else single))
    return found


def score_of(kind: str) -> Score:
    """The score of a task: questions have several right answers, all others ask for all strings of the gold."""
    return overlap.any_inside if kind.startswith("qa") else overlap.share_inside


def read(row: dict) -> Sample:
    """A prompt, and how its answer begins where the record says so."""
    return one(row["input"].rstrip(" "), "", row.get("answer_prefix", "").rstrip(" "), listed(row["outputs"]))


RULER = Set(
    "RULER", "the files that RULER (arXiv 2404.06654) makes, as they are", "niah_single_1/validation.jsonl", tasks
)
