"""LongProc: procedures that are carried out step by step, with answers of 500 to 8,000 tokens."""

import collections
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from longctx.evals.questions import scores
from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets import overlap
from longctx.evals.sets.folder import Folder, Picked
from longctx.evals.sets.published import Score, Set, Texts, one

BUDGETS = {"0.5k": 1024, "2k": 3072, "8k": 10240}
EXAMPLES = 2  # of countdown, the last of a file, which are not asked then
EXAMPLE = "# Example\nNumbers: {nums}\nTarget: {target}\n\n{demonstration}"
KEY = "USER_PROMPT"  # of prompts.yaml
STEP = re.compile(r"\s*-(.*)")
FILLER = re.compile(r"\b(a|an|the|on|in|at|step|thinks|think|believes|believe|is|are|of|location|know|knows|belief)\b")
_EQUATION = re.compile(r"^\s*(\d{1,9}) ?([-+*/]) ?(\d{1,9}) ?= ?(\d{1,9})\s*$", re.MULTILINE)
_TABLE = re.compile(r"```(?:tsv)?\n?(.*?)(?:```|\Z)", re.DOTALL)


def inside(answer: str, tag: str) -> str:
    """What an answer has between two tags; "" where they are not both there."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", answer, re.DOTALL)
    return found[1].strip() if found else ""


def route(answer: str, query: Query) -> float:
    """1 where the route between its tags is that of the gold, else 0."""
    return float(inside(answer, "Route") == inside(query.gold[0], "Route"))


def equations(answer: str, query: Query) -> float:
    """1 where the solution between its tags makes the target of the numbers, each used once, in any way, else 0.

    A number on the way may be 0, as it is in solutions of the set.
    """
    gold, said = (_EQUATION.findall(inside(text, "Solution")) for text in (query.gold[0], answer))
    left = collections.Counter(number for one, _, other, _ in gold for number in map(int, (one, other)))
    left.subtract(int(result) for *_, result in gold[:-1])
    for equation in said:
        one, other, result = (int(equation[i]) for i in (0, 2, 3))
        left.subtract((one, other))
        if min(left.values()) < 0 or not _is_true(one, equation[1], other, result):
            return 0.0
        left[result] += 1
    return float(len(said) == len(gold) and +left == collections.Counter([int(gold[-1][3])]))


def _is_true(one: int, operation: str, other: int, result: int) -> bool:
    if operation == "/":
        return other != 0 and one == other * result
    return {"+": one + other, "-": one - other, "*": one * other}[operation] == result


def beliefs(answer: str, query: Query) -> float:
    """1 where all lines of the trace are those of the gold, up to words that say nothing, else 0."""
    return float(_trace(answer) == _trace(query.gold[0]))


def _trace(text: str) -> list[list[str]]:
    lines = [found[1] for line in text.splitlines() if (found := STEP.match(line))]
    return [overlap.words(FILLER.sub(" ", line.lower())) for line in lines]


def table(answer: str, query: Query) -> float:
    """The F1 of the rows, each as the letters and digits of its cells; the first line names the columns."""
    return scores.set_f1(_rows(answer), _rows(query.gold[0]))


def _rows(text: str) -> list[tuple[str, ...]]:
    found = _TABLE.search(text)
    lines = (found[1] if found else text).strip().splitlines()[1:]
    return [tuple("".join(overlap.words(cell)) for cell in line.split("\t")) for line in lines if "\t" in line]


class Kind(NamedTuple):
    """A task: the score, the keys of its records, and from a record the fields of the prompt, the longest first, and
    the gold."""

    score: Score
    keys: tuple[str, ...]
    fields: Callable[[dict, Folder], dict[str, str]]
    gold: Callable[[dict], str]


def _page(row: dict, folder: Folder) -> dict[str, str]:
    found = folder.matching(re.escape(row["html_path"]))
    if not found:
        raise KeyError(row["html_path"])
    names = ("task_topic", "task_description", "filtering_instruction", "tsv_header")
    return {"html_str": folder.text(found[0][0])} | {name: row[name] for name in names}


def _solution(row: dict) -> str:
    gold = f"<Solution>\n{row['solution_text'].strip()}\n</Solution>"
    if not equations(gold, Query("", "", (gold,))):
        raise ValueError(f"solution_text={row['solution_text']!r} is none")
    return gold


TASKS = {
    "path_traversal": Kind(
        route,
        ("context_nl", "question_repr", "answer_nl"),
        lambda row, folder: dict(
            zip(("city_context", "src_city", "dst_city"), (row["context_nl"], *row["question_repr"]), strict=True)
        ),
        lambda row: f"<Route>\n{row['answer_nl'].strip()}\n</Route>",
    ),
    "countdown": Kind(
        equations,
        ("nums", "target", "solution_text", "demonstration"),
        lambda row, folder: {"nums": str(row["nums"]), "target": str(row["target"])},
        _solution,
    ),
    "tom_tracking": Kind(
        beliefs,
        ("story", "question", "solution"),
        lambda row, folder: {"story": row["story"], "question": row["question"]},
        lambda row: row["solution"],
    ),
    "html_to_tsv": Kind(
        table,
        ("html_path", "gt", "tsv_header", "task_topic", "task_description", "filtering_instruction"),
        _page,
        lambda row: f"```tsv\n{row['gt'].strip()}\n```",
    ),
}


def tasks(folder: Folder) -> list[Texts]:
    """A task for each file, with the prompts of the folder."""
    found = []
    for name, kind in TASKS.items():
        prompts = folder.matching(rf"{name}/prompts\.yaml")
        tables = folder.tables(rf"{name}/({name}_(?:{'|'.join(BUDGETS)}))\.json", *kind.keys) if prompts else {}
        for table_name, rows in tables.items():
            template = block(folder.text(prompts[0][0]))
            if name == "countdown":
                template, rows = with_examples(template, rows)
            budget = BUDGETS[table_name.rpartition("_")[2]]
            found.append(Texts(table_name, rows, _reader(template, kind, folder), kind.score, budget))
    return found


def block(text: str) -> str:
    """The text of a YAML file that holds nothing but one block of text under USER_PROMPT."""
    head, _, rest = text.partition("\n")
    if not re.fullmatch(rf"{KEY}: \|-?\s*", head):
        raise ValueError(f"prompts.yaml begins with {head!r}, not with {KEY}: |-")
    return textwrap.dedent(rest).strip("\n")


def with_examples(template: str, rows: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """A prompt with the last records in it as examples, and the records but these."""
    left = max(len(rows) - EXAMPLES, 0)
    shown = [EXAMPLE.format(**rows[i]) for i in range(left, len(rows))]
    filled = "\n\n".join(shown).replace("{", "{{").replace("}", "}}")
    return template.replace("{demonstration}", filled), Picked(rows, range(left))


def _reader(template: str, kind: Kind, folder: Folder) -> Callable[[dict], Sample]:
    def read(row: dict) -> Sample:
        fields = kind.fields(row, folder)
        long = next(iter(fields))
        before, found, after = template.partition(f"{{{long}}}")
        if not found:
            raise ValueError(f"the prompt has no {{{long}}}")
        return one(before.format(**fields) + fields[long], after.format(**fields).rstrip(" "), "", [kind.gold(row)])

    return read


LONGPROC = Set(
    "LongProc",
    "LongProc (arXiv 2501.05414) with the prompts of its folder, in countdown with examples from the end of the file; "
    "exact answers (F1 of rows for pages), without points for a part of a procedure; pseudo_to_code, which runs C++, "
    "and travel_planning are left out",
    "path_traversal/path_traversal_0.5k.json",
    tasks,
)
