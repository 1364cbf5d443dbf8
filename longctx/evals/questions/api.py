"""The tasks that ask, by name; question.py says what one is. A suite is a tuple of these names."""

from collections.abc import Mapping

from longctx.evals.questions.bios import Bios
from longctx.evals.questions.copying import ManyClasses, MarkedPassage
from longctx.evals.questions.infinite import FindNumbers, HiddenNumber, NestedCalls, RunningTotal
from longctx.evals.questions.keyvalue import Associations, JointRecall, JsonPairs
from longctx.evals.questions.needles import Needles
from longctx.evals.questions.question import Questions
from longctx.evals.questions.threads import Marked, Threads

QUESTIONS: Mapping[str, Questions] = {
    "niah_single_1": Needles(haystack="noise"),
    "niah_single_2": Needles(),
    "niah_single_3": Needles(of="uuids"),
    "niah_multikey_1": Needles(keys=4),
    "niah_multikey_2": Needles(haystack="needles"),
    "niah_multikey_3": Needles(by="uuids", of="uuids", haystack="needles"),
    "niah_multivalue": Needles(values=4),
    "niah_multiquery": Needles(keys=4, asked=4),
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
}
