"""The tasks that ask, by name; question.py says what one is. A suite is a tuple of these names."""

from collections.abc import Mapping

from longctx.evals.questions.lift import Lift
from longctx.evals.questions.needles import Needles
from longctx.evals.questions.passages import CountingStars
from longctx.evals.questions.people import FactDocuments
from longctx.evals.questions.question import Questions
from longctx.evals.questions.repeated import RepeatedWords
from longctx.evals.questions.ruler import CommonWords, FrequentWords, VariableTracking
from longctx.evals.questions.tally import Tally, TallyPairs

QUESTIONS: Mapping[str, Questions] = {
    "niah_single_1": Needles(haystack="noise"),
    "niah_single_2": Needles(),
    "niah_single_3": Needles(of="uuids"),
    "niah_multikey_1": Needles(keys=4),
    "niah_multikey_2": Needles(haystack="needles"),
    "niah_multikey_3": Needles(by="uuids", of="uuids", haystack="needles"),
    "niah_multivalue": Needles(values=4),
    "niah_multiquery": Needles(keys=4, asked=4),
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
}
