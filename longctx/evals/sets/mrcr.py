"""MRCR: one of several replies to the same request, out of a long conversation; of OpenAI and of Google."""

import dataclasses
import difflib
import json

from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets.folder import Folder, by_value
from longctx.evals.sets.published import Set, Texts, one

BUDGET = 2048
MARK = 12  # characters of the mark before Google's answers
ROLES = {"user": "User", "assistant": "Assistant", "system": "System"}


def tasks(folder: Folder) -> list[Texts]:
    """A task for each number of replies among which one is asked for."""
    keys = ("prompt", "answer", "random_string_to_prepend", "n_needles")
    found = []
    for rows in folder.tables(r"[^/]*\.(?:parquet|jsonl|json)", *keys).values():
        openai = OpenAI(len(rows[0]["random_string_to_prepend"]))
        for count, some in by_value(rows, "n_needles").items():
            found.append(Texts(f"{count} needles", some, openai.read, openai.score, BUDGET, chance=openai.chance))
    for name, rows in folder.tables(r"([^/]*)\.csv", "queries", "answer").items():
        found.append(Texts(name, rows, read_text, score_of_google, BUDGET))
    return found


@dataclasses.dataclass(frozen=True)
class OpenAI:
    """How the set of OpenAI is read and scored. mark: characters of what an answer begins with."""

    mark: int

    def read(self, row: dict) -> Sample:
        """A conversation as lines of User and Assistant; the candidates are the replies to the same request."""
        messages, mark = json.loads(row["prompt"]), row["random_string_to_prepend"]
        if len(mark) != self.mark or not row["answer"].startswith(mark):
            raise ValueError(f"the answer does not start with {mark!r}, or that is not {self.mark} characters long")
        said = [message["content"] for message in messages]
        gold = row["answer"][self.mark :]
        requests = [said[i - 1] for i in range(1, len(said)) if said[i].strip() == gold.strip()]
        replies = [f"{mark}{said[i]}".strip() for i in range(1, len(said)) if said[i - 1] in requests[:1]]
        lines = [f"{ROLES.get(message['role'], message['role'])}: {message['content']}" for message in messages]
        among = replies if len(replies) > 1 else ()
        return one("\n".join(lines[:-1]), f"\n{lines[-1]}", f"\n{ROLES['assistant']}:", [row["answer"]], among)

    def score(self, answer: str, query: Query) -> float:
        """difflib's ratio to the reply behind the mark; 0 where the answer does not start with the mark."""
        gold, said = query.gold[0], answer.strip()
        mark = gold[: self.mark]
        return _ratio(said[self.mark :], gold[self.mark :]) if said.startswith(mark) else 0.0

    def chance(self, query: Query) -> float:
        """The mean score of the replies to the same request; 0 where they are not known."""
        found = [self.score(candidate, query) for candidate in query.candidates]
        return sum(found) / len(found) if found else 0.0


def score_of_google(answer: str, query: Query) -> float:
    """difflib's ratio to the reply behind the last mark of 12 characters; 0 without the mark."""
    gold = query.gold[0]
    _, found, said = answer.rpartition(gold[:MARK])
    return _ratio(gold[MARK:].strip(), said.strip()) if found else 0.0


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def read_text(row: dict) -> Sample:
    """A conversation that is one text, with the question at its end."""
    if len(row["answer"].strip()) <= MARK:
        raise ValueError("the answer is no longer than its mark")
    text = row["queries"]
    context, turn, question = text.rpartition("\nUser:" if "\nUser:" in text else "\n")
    return one(context, turn + question, "", [row["answer"]])


MRCR = Set(
    "MRCR",
    "MRCR of OpenAI (2025), and v2 of Google (arXiv 2409.12640); messages as lines of User and Assistant, not in the "
    "chat format of a model",
    ".parquet with n_needles",
    tasks,
)
