"""The tasks that ask, by name; question.py says what one is. A suite is a tuple of these names."""

import dataclasses
from collections.abc import Mapping, Sequence

from longctx.config import EvalConfig
from longctx.errors import unknown_name
from longctx.evals.questions.babilong import GIVERS, Babilong
from longctx.evals.questions.beliefs import Beliefs
from longctx.evals.questions.best_answer import BestAnswer
from longctx.evals.questions.bios import Bios
from longctx.evals.questions.copying import ManyClasses, MarkedPassage
from longctx.evals.questions.countdown import Countdown
from longctx.evals.questions.examples import with_examples
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
from longctx.evals.questions.pathfinder import Pathfinder
from longctx.evals.questions.paths import PathTraversal
from longctx.evals.questions.qa_facts import FactDocuments
from longctx.evals.questions.question import Questions
from longctx.evals.questions.repeated import RepeatedWords
from longctx.evals.questions.ruler import CommonWords, FrequentWords, VariableTracking
from longctx.evals.questions.ruler_official import RulerCommonWords, RulerFrequentWords, RulerNeedles, RulerVariables
from longctx.evals.questions.symbolic import Assignments
from longctx.evals.questions.table import Table
from longctx.evals.questions.tally import Tally, TallyPairs
from longctx.evals.questions.threads import Marked, Threads
from longctx.evals.questions.unknown import Unknown

QUESTIONS: Mapping[str, Questions] = {
    "niah_single_1": Needles(haystack="noise"),
    "niah_single_2": Needles(),
    "niah_single_3": Needles(of="uuids"),
    "niah_multikey_1": Needles(keys=4),
    "niah_multikey_2": Needles(haystack="needles"),
    "niah_multikey_3": Needles(by="uuids", of="uuids", haystack="needles"),
    "niah_multivalue": Needles(values=4),
    "niah_multiquery": Needles(keys=4, asked=4),
    "mrcr_2": Mrcr(),
    "mrcr_4": Mrcr(replies=4),
    "mrcr_8": Mrcr(replies=8),
    "sort": Order(),
    "tsort": Order(segments=4),
    "best_answer": BestAnswer(),
    "latent_1": Latent(),
    "latent_1_inverted": Latent(inverted=True),
    "latent_2": Latent(steps=2),
    "latent_2_inverted": Latent(steps=2, inverted=True),
    "beliefs": Beliefs(),
    "idk": Unknown(),
    "html_tsv": Table(),
    "html_tsv_2k": Table(rows=50),
    "babilong_qa1": Babilong(),
    "babilong_qa2": Babilong("qa2", facts=20),
    "babilong_qa3": Babilong("qa3", facts=30),
    "babilong_qa4": Babilong("qa4", facts=2),
    "babilong_qa5": Babilong("qa5", persons=GIVERS),
    "graphwalks_bfs": Graphwalks(),
    "graphwalks_parents": Graphwalks("parents"),
    "gsm_infinite_symbolic": Assignments(),
    "listops": ListOps(),
    "pathfinder": Pathfinder(),
    "path_traversal": PathTraversal(),
    "countdown": Countdown(),
    "latent_list": LatentList(),
    "vt": VariableTracking(),
    "vt_chains": VariableTracking(chains=4),
    "cwe": CommonWords(),
    "fwe": FrequentWords(),
    "qa_facts_1": FactDocuments(),
    "qa_facts_2": FactDocuments(hops=2),
    "tally": Tally(),
    "tally_pairs": TallyPairs(),
    "counting_stars": CountingStars(),
    "repeated_words": RepeatedWords(),
    "lift": Lift(),
    "threads_needle": Threads(),
    "threads_needles": Threads(threads=5),
    "threads_conditional": Marked(),
    "threads_forward": Threads(steps=5),
    "threads_backward": Threads(steps=5, direction="backward"),
    "threads_random": Threads(steps=5, direction="random"),
    "threads_multi": Threads(threads=5, steps=5),
    "json_kv": JsonPairs(),
    "json_kv_multi": JsonPairs(asked=5),
    "mqar": Associations(),
    "joint_recall": JointRecall(),
    "infinite_passkey": HiddenNumber(),
    "infinite_number": HiddenNumber(doubled=True),
    "infinite_find": FindNumbers(),
    "infinite_calc": RunningTotal(),
    "infinite_code": NestedCalls(),
    "copy": MarkedPassage(),
    "icl_10": ManyClasses(classes=10),
    "icl_50": ManyClasses(),
    "icl_50_grouped": ManyClasses(grouped=True),
    "icl_200": ManyClasses(classes=200),
    "bios_standard": Bios(),
    "bios_multi_2": Bios(count=2),
    "bios_multi_5": Bios(count=5),
    "bios_rank_2": Bios("rank", count=2),
    "bios_multihop_2": Bios("multihop", count=2),
    "bios_citation": Bios("citation"),
    "ruler_niah_single_1": RulerNeedles(haystack="noise"),
    "ruler_niah_single_2": RulerNeedles(),
    "ruler_niah_single_3": RulerNeedles(of="uuids"),
    "ruler_niah_multikey_1": RulerNeedles(keys=4),
    "ruler_niah_multikey_2": RulerNeedles(haystack="needles"),
    "ruler_niah_multikey_3": RulerNeedles(by="uuids", of="uuids", haystack="needles"),
    "ruler_niah_multivalue": RulerNeedles(values=4),
    "ruler_niah_multiquery": RulerNeedles(keys=4, asked=4),
    "ruler_vt": RulerVariables(),
    "ruler_cwe": RulerCommonWords(),
    "ruler_cwe_short": RulerCommonWords(often=6, seldom=1, example=(20, 3, 1)),
    "ruler_fwe": RulerFrequentWords(),
    "ruler2_mk_niah_basic": RulerNeedles(haystack="needles", digits=10, version=2),
    "ruler2_mv_niah_basic": RulerNeedles(values=4, haystack="needles", digits=10, version=2),
}
_starting = lambda *starts: tuple(name for name in QUESTIONS if name.startswith(starts))
SUITES: Mapping[str, tuple[str, ...]] = {
    "quick": ("niah_single_2", "niah_multikey_2", "json_kv", "threads_forward", "babilong_qa1", "repeated_words"),
    "ruler": (*_starting("niah_"), "vt", "cwe", "fwe", "qa_facts_1", "qa_facts_2"),
    "ruler_official": (*_starting("ruler_niah_"), "ruler_vt", "ruler_cwe", "ruler_fwe"),
    "ruler2": _starting("ruler2_"),
    "recall": (*_starting("threads_", "mrcr_", "latent_", "bios_"), "mqar", "joint_recall", "copy", "idk"),
    "reasoning": (
        *_starting("babilong_", "graphwalks_"),
        *(
            "gsm_infinite_symbolic",
            "listops",
            "pathfinder",
            "path_traversal",
            "countdown",
            "latent_list",
            "best_answer",
            "beliefs",
        ),
        *("sort", "tsort", "infinite_code", "infinite_calc"),
    ),
    "aggregation": ("tally", "tally_pairs", "counting_stars", "infinite_find", "cwe", "fwe", *_starting("icl_")),
    "kv": ("json_kv", "json_kv_multi", "mqar", "joint_recall", "lift"),
    # what analyses of long context look at: many classes, one fact against a chain of them, where a fact stands
    "claims": ("icl_10", "icl_50", "icl_200", "threads_needle", "threads_forward", "niah_single_2", "json_kv"),
}


def named(names: Sequence[str], option: str = "eval.questions") -> list[str]:
    """The tasks that names of tasks and of suites stand for, each once. Raises UserError for an unknown name.

    option: where the names come from.
    """
    found: dict[str, None] = {}
    for i, name in enumerate(names):
        if name not in QUESTIONS and name not in SUITES:
            listed = f"{', '.join(SUITES)}, and the {len(QUESTIONS)} tasks in longctx/evals/questions/api.py"
            raise unknown_name(f"{option}[{i}]", name, (*SUITES, *QUESTIONS), listed)
        found |= dict.fromkeys(SUITES.get(name, (name,)))
    return list(found)


def configured(name: str, config: EvalConfig) -> Questions:
    """The task of that name as the settings have it: with config.shots examples, in the texts of config.essays."""
    task = QUESTIONS[name]
    if config.essays and isinstance(task, RulerNeedles):
        task = dataclasses.replace(task, essays=config.essays)
    return with_examples(task, config.shots)
