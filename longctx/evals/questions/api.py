"""The tasks that ask, by name; question.py says what one is. A suite is a tuple of these names."""

from collections.abc import Mapping

from longctx.evals.questions.babilong import GIVERS, Babilong
from longctx.evals.questions.countdown import Countdown
from longctx.evals.questions.graphs import Graphwalks
from longctx.evals.questions.latent_list import LatentList
from longctx.evals.questions.listops import ListOps
from longctx.evals.questions.needles import Needles
from longctx.evals.questions.paths import PathTraversal
from longctx.evals.questions.question import Questions
from longctx.evals.questions.symbolic import Assignments

QUESTIONS: Mapping[str, Questions] = {
    "niah_single_1": Needles(haystack="noise"),
    "niah_single_2": Needles(),
    "niah_single_3": Needles(of="uuids"),
    "niah_multikey_1": Needles(keys=4),
    "niah_multikey_2": Needles(haystack="needles"),
    "niah_multikey_3": Needles(by="uuids", of="uuids", haystack="needles"),
    "niah_multivalue": Needles(values=4),
    "niah_multiquery": Needles(keys=4, asked=4),
    "babilong_qa1": Babilong(),
    "babilong_qa2": Babilong("qa2", facts=20),
    "babilong_qa3": Babilong("qa3", facts=30),
    "babilong_qa4": Babilong("qa4", facts=2),
    "babilong_qa5": Babilong("qa5", persons=GIVERS),
    "graphwalks_bfs": Graphwalks(),
    "graphwalks_parents": Graphwalks("parents"),
    "gsm_infinite_symbolic": Assignments(),
    "listops": ListOps(),
    "path_traversal": PathTraversal(),
    "countdown": Countdown(),
    "latent_list": LatentList(),
}
