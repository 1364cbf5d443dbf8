"""The rule of rules.py, and its settings, by which an answer to a question of longctx/evals/questions is scored."""

from collections.abc import Callable, Mapping
from typing import Any

from longctx.evals.questions import bios_people, countdown, graphs, latent_list, listops, mrcr, paths, symbolic, words
from longctx.evals.questions.babilong import Babilong
from longctx.evals.questions.beliefs import Beliefs
from longctx.evals.questions.best_answer import BestAnswer
from longctx.evals.questions.bios import Bios
from longctx.evals.questions.copying import ManyClasses, MarkedPassage
from longctx.evals.questions.countdown import Countdown
from longctx.evals.questions.graphs import Graphwalks
from longctx.evals.questions.infinite import FindNumbers, HiddenNumber, NestedCalls, RunningTotal
from longctx.evals.questions.keyvalue import Associations, JointRecall, JsonPairs
from longctx.evals.questions.latent import Latent
from longctx.evals.questions.latent_list import LatentList
from longctx.evals.questions.lift import Lift
from longctx.evals.questions.listops import ListOps
from longctx.evals.questions.mrcr import Mrcr
from longctx.evals.questions.needles import Needles
from longctx.evals.questions.order import Order
from longctx.evals.questions.passages import CountingStars
from longctx.evals.questions.paths import PathTraversal
from longctx.evals.questions.qa_facts import FactDocuments
from longctx.evals.questions.question import Query, Questions
from longctx.evals.questions.repeated import RepeatedWords
from longctx.evals.questions.ruler import CommonWords, FrequentWords, VariableTracking
from longctx.evals.questions.symbolic import Assignments
from longctx.evals.questions.table import Table
from longctx.evals.questions.tally import Tally, TallyPairs
from longctx.evals.questions.threads import Marked, Threads
from longctx.evals.questions.unknown import Unknown

Settings = dict[str, Any]
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def by_label(task: Babilong, query: Query) -> Settings:
    """One label of those that the kind of question asks for."""
    labels = task.persons + task.objects if task.kind == "qa5" else task.rooms
    return {"by": "one_label", "labels": labels, "question": query.question}


def by_names(task: ManyClasses | Associations, query: Query) -> Settings:
    """Names in order: among the candidates, or any noun where there are none."""
    return {"by": "in_order", "known": query.candidates or words.NOUNS}


def by_person(task: Bios, query: Query) -> Settings:
    """Values in order, among those that the same attributes can have; for a citation its passage, too."""
    if task.kind == "rank":
        return {"by": "in_order", "known": query.candidates}
    values = query.gold[:1] if task.kind == "citation" else query.gold
    fields = [next(field for field, known in bios_people.VALUES.items() if value in known) for value in values]
    known = [value for field in dict.fromkeys(fields) for value in bios_people.VALUES[field]]
    return {"by": "cited" if task.kind == "citation" else "in_order", "known": known}


def by_count(task: Tally, query: Query) -> Settings:
    """The candidate where there are some, else a count."""
    return {"by": "gold_first" if query.candidates else "close_count"}


def by_problem(task: Lift, query: Query) -> Settings:
    """One result, or all results of an author."""
    return {"by": "integer"} if query.candidates else {"by": "matches", "pattern": r"\d+"}


def by_header(task: Table, query: Query) -> Settings:
    """Rows below the header, which the prefix ends with."""
    return {"by": "rows", "header": query.prefix.strip()}


FIXED: Mapping[type, Settings] = {
    Assignments: {"by": "same_matches", "pattern": r"(?<!\w)V\d{6}(?!\w)", "prefix": symbolic.PREFIX},
    Beliefs: {"by": "gold_alone"},
    BestAnswer: {"by": "gold_alone"},
    CommonWords: {"by": "share_of_gold"},
    Countdown: {"by": "equations", "prefix": countdown.PREFIX, "most": countdown.MOST},
    CountingStars: {"by": "counts_and_ids"},
    FactDocuments: {"by": "gold_first"},
    FindNumbers: {"by": "integer"},
    FrequentWords: {"by": "share_of_gold"},
    Graphwalks: {"by": "matches", "pattern": r"(?<!\w)[0-9a-f]{10}(?!\w)", "prefix": graphs.PREFIX},
    HiddenNumber: {"by": "first_match", "pattern": r"\d+"},
    JointRecall: {"by": "first_match", "pattern": r"(?<!\d)\d{5}(?!\d)"},
    JsonPairs: {"by": "share_of_gold"},
    Latent: {"by": "gold_alone"},
    LatentList: {"by": "numbers", "prefix": latent_list.PREFIX},
    ListOps: {"by": "integer", "prefix": listops.PREFIX},
    Marked: {"by": "matches", "pattern": UUID, "lower": True},
    MarkedPassage: {"by": "leading_matches", "pattern": r"\w+"},
    Mrcr: {"by": "reply", "limit": mrcr.LIMIT},
    Needles: {"by": "share_of_gold"},
    NestedCalls: {"by": "integer"},
    Order: {"by": "letters", "pattern": r"\b[A-F]\b"},
    PathTraversal: {
        "by": "steps",
        "prefix": paths.PREFIX,
        "pattern": rf"\b(\w+) to (\w+) by ({'|'.join(paths.VEHICLES)})\b",
    },
    RepeatedWords: {"by": "whole_gold"},
    RunningTotal: {"by": "leading_matches", "pattern": r"\d+"},
    TallyPairs: {"by": "pairs"},
    Threads: {"by": "share_of_gold"},
    Unknown: {"by": "gold_alone"},
    VariableTracking: {"by": "share_of_gold"},
}
BY_QUERY: Mapping[type, Callable[..., Settings]] = {
    Associations: by_names,
    Babilong: by_label,
    Bios: by_person,
    Lift: by_problem,
    ManyClasses: by_names,
    Table: by_header,
    Tally: by_count,
}
WITH_CANDIDATES = "gold_alone", "gold_first"  # rules that look at them


def has_rule(task: Questions) -> bool:
    """Whether answers to a task can be scored without longctx."""
    return type(task) in FIXED or type(task) in BY_QUERY


def settings(task: Questions, query: Query) -> Settings:
    """The rule ("by") and its settings for the answers to a query of a task that has a rule."""
    kind = type(task)
    found = {"gold": query.gold} | (BY_QUERY[kind](task, query) if kind in BY_QUERY else FIXED[kind])
    return found | ({"candidates": query.candidates} if found["by"] in WITH_CANDIDATES else {})
