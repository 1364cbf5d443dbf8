"""OOLONG: what many records say together; records that were put together, and scripts of games."""

import ast
import re

from longctx.evals.questions import scores
from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets.folder import Folder, by_value
from longctx.evals.sets.published import Score, Set, Texts, listed, one

BUDGET = 128
COMPARED = ("more common", "less common", "same frequency")
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_BOXED = re.compile(r"\\boxed\{+(?:\\text\{)?([^{}]*)\}")
_DATE = re.compile(r"datetime\.date\((\d+), *(\d+), *(\d+)\)")
_WRITTEN = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})|(?<![a-z])([a-z]{3})[a-z]*\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})")


def tasks(folder: Folder) -> list[Texts]:
    """A task for each type of answer about records, and one for each file about games."""
    keys = ("context_window_text", "question", "answer", "context_window_id")
    path = r"(\w+/)?(test|validation)(?:-\d+-of-\d+|/\d+)?\.(?:parquet|jsonl)"
    found = []
    for split, rows in folder.tables(path, *keys, "answer_type").items():
        for kind, some in by_value(rows, "answer_type").items():
            name = f"{str(kind).rpartition('.')[2].lower()} {split.split()[-1]}"
            found.append(Texts(name, some, read_records, score_of(name.split()[0]), BUDGET, chance=no_guess))
    for split, rows in folder.tables(path, *keys, without=("answer_type",)).items():
        found.append(Texts(split.replace("/ ", " "), rows, read_games, games, BUDGET, chance=no_guess))
    return found


def no_guess(query: Query) -> float:
    """0: a record does not say which answers there could be."""
    return 0.0


def read_records(row: dict) -> Sample:
    """Records and a question; the gold is the first of a list that is written out."""
    if found := _DATE.search(row["answer"]):
        gold = "-".join(f"{int(part):02d}" for part in found.groups())
    else:
        gold = listed(ast.literal_eval(row["answer"]))[0]
    return one(row["context_window_text"], f"\n{row['question']}", "", [gold])


def read_games(row: dict) -> Sample:
    """A script and a question."""
    return one(row["context_window_text"], f"\n{row['question']}", "", listed(row["answer"]))


def score_of(kind: str) -> Score:
    """The score of a type of answer, in lower case: by the error of a number, by the day of a date, else equal."""
    return {"numeric": number, "date": day, "comparison": comparison}.get(kind, equal)


def said(answer: str) -> str:
    """What an answer says: behind its last colon, or all of it if it is short, or its last word; without *, [ and ]."""
    text = answer.strip()
    if ":" in text:
        text = text.rpartition(":")[2]
    elif len(text) >= 20 and not any(words in text.lower() for words in COMPARED) and not _dates(text):
        text = (text.split() or [""])[-1]
    return re.sub(r"[*\[\]]", "", text).strip()


def equal(answer: str, query: Query) -> float:
    """1 where what is said is the gold, else 0."""
    return float(said(answer) == query.gold[0])


def number(answer: str, query: Query) -> float:
    """0.75 to the power of the error."""
    found = re.fullmatch(r"-?\d{1,15}", said(answer))
    return scores.near(int(found[0]) if found else None, int(query.gold[0]))


def comparison(answer: str, query: Query) -> float:
    """1 where the first of more common, less common and same frequency that is said is the one in the gold, else 0."""
    first = lambda text: min(
        ((text.lower().find(each), each) for each in COMPARED if each in text.lower()), default=None
    )
    one, right = first(said(answer)), first(query.gold[0])
    return float(one is not None and right is not None and one[1] == right[1])


def day(answer: str, query: Query) -> float:
    """1 where what is said is the day of the gold, written 2024-04-08 or Apr 8, 2024, else 0."""
    found = _dates(said(answer))
    return float(bool(found) and found[0] == _dates(query.gold[0])[0])


def _dates(text: str) -> list[tuple[int, int, int]]:
    """The dates in a text, (year, month, day) each."""
    found = []
    for year, month, day, name, other, behind in _WRITTEN.findall(text.lower()):
        if year:
            found.append((int(year), int(month), int(day)))
        elif name in MONTHS:
            found.append((int(behind), MONTHS.index(name) + 1, int(other)))
    return found


def games(answer: str, query: Query) -> float:
    """The score of what is in a box, or of the whole answer: by the error of an integer, the share of a list, else
    equal, whatever the case."""
    boxed = _BOXED.search(answer)
    text, gold = (boxed[1] if boxed else answer).strip(), query.gold[0]
    if re.fullmatch(r"-?\d{1,15}", gold):
        return scores.near(int(text) if re.fullmatch(r"-?\d{1,15}", text) else None, int(gold))
    if "," in gold:
        parts = lambda value: {part.strip() for part in value.split(",") if part.strip()}
        return len(parts(text) & parts(gold)) / len(parts(gold))
    return float(text.lower() == gold.lower())


OOLONG = Set(
    "OOLONG",
    "OOLONG (arXiv 2511.02817), synth and real, without the labels in the text; of games an answer without a box "
    "counts as a whole, and dates are read in two forms",
    "test.jsonl with context_window_text",
    tasks,
)
