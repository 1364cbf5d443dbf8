"""Recall of one reply among several to the same request, out of a conversation (multi-round coreference)."""

import dataclasses
import difflib
import re
import string
from collections.abc import Iterator

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import Query, Sample

TASK = "A conversation follows. At its end one of the replies is to be given once more.\n"
REQUEST = "Write a {} {} about {}."
QUESTION = (
    "\nUser: Write {mark} first, and behind it, word for word, the {which} {style} {form} about {topic} from above."
)
PREFIX = "\nAssistant:"
ORDINALS = "first second third fourth fifth sixth seventh eighth".split()
FORMS = {  # the head, what stands between sentences, and the tail
    "poem": ("{}, in verse:", " / ", ""),
    "letter": ("Dear friend, a word on {}.", " ", " Yours ever."),
    "tale": ("There is an old tale of {}.", " Then, they say: ", " So it ended."),
    "speech": ("Neighbours, let us speak of {}.", " And I say to you: ", " I thank you."),
    "diary page": ("Today I thought of {}.", " Later: ", " Now to bed."),
    "riddle": ("Guess what I know of {}.", " Also: ", " Who can tell?"),
    "notice": ("To all whom {} concerns.", " Further: ", " By order of the mayor."),
}
TOPICS = ("winter", "bread", "trains", "gardens", "the sea", "music", "sleep")
STYLES = ("cheerful", "solemn", "plain", "mocking", "dreamy")
SENTENCES = 5  # of a reply
LIMIT = 4000  # characters that are compared, since the ratio takes time with the square of them
_MARK = string.ascii_letters + string.digits
_ASKED = re.compile(r"Write (\w+) first, .* the (\w+) (\w+) (.+) about (.+) from above\.")
_KINDS = [(style, form, topic) for style in STYLES for form in FORMS for topic in TOPICS]


@dataclasses.dataclass(frozen=True)
class Mrcr:
    """One of the replies to a request that was made several times is asked for.

    Attributes:
      replies: how often the request was made.
    """

    replies: int = 2
    budget: int = 512
    smallest: int = 4
    source: str = (
        "MRCR (arXiv 2409.12640) as OpenAI and Google publish it: 2, 4 or 8 replies, 7 forms, 7 topics, 5 styles, a "
        "mark before the answer, difflib's ratio; replies are generated, of one paragraph and under 500 characters"
    )
    diffusion: str = "high"
    scope: str = "low"

    def __post_init__(self):
        if not 2 <= self.replies <= len(ORDINALS):
            raise ValueError(f"{self.replies} replies to the same request are not 2 to {len(ORDINALS)}.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"one of {self.replies} replies to the same request, word for word"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: other requests with their replies."""
        style, form, topic = kind = _KINDS[rng.integers(len(_KINDS))]
        which = int(rng.integers(self.replies))
        mark = "".join(_MARK[i] for i in rng.integers(0, len(_MARK), 10))
        depths = sorted(rng.random(self.replies).tolist())
        own = words.sentences(rng)
        replies = [_reply(kind, own) for _ in range(self.replies)]
        hay = np.random.default_rng(rng.integers(1 << 62))
        others, more = [one for one in _KINDS if one != kind], words.sentences(hay)
        turns = [_turn(others[i], more) for i in hay.integers(0, len(others), size)]
        told = words.placed(turns, zip(depths, [_said(kind, reply) for reply in replies], strict=True))
        answers = [f"{mark} {reply}" for reply in replies]
        question = QUESTION.format(mark=mark, which=ORDINALS[which], style=style, form=form, topic=topic)
        candidates = (answers[which], *answers[:which], *answers[which + 1 :])
        return Sample(
            TASK + "\n".join(told), (Query(question, PREFIX, candidates[:1], candidates, depth=depths[which]),)
        )

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition("\nUser: ")
        mark, which, style, form, topic = _ASKED.findall(question)[0]
        request = re.escape(REQUEST.format(style, form, topic))
        found = re.findall(rf"^User: {request}\nAssistant: (.*)$", context, re.MULTILINE)
        return f"{mark} {found[ORDINALS.index(which)]}"

    def score(self, answer: str, query: Query) -> float:
        """See Questions: difflib's ratio of the first line to the reply, 0 where it does not start with the mark."""
        mark, _, reply = query.gold[0].partition(" ")
        line = scores.first_line(answer)
        if not line.startswith(mark):
            return 0.0
        said = line[len(mark) :].strip()
        return difflib.SequenceMatcher(None, said[:LIMIT], reply[:LIMIT]).ratio()

    def chance(self, query: Query) -> float:
        """See Questions: the mean score of the replies to the request."""
        return sum(self.score(one, query) for one in query.candidates) / len(query.candidates)


def _reply(kind: tuple[str, str, str], sentences: Iterator[str]) -> str:
    _, form, topic = kind
    head, between, tail = FORMS[form]
    return f"{head.format(topic)} {between.join(words.take(sentences, SENTENCES))}{tail}"


def _said(kind: tuple[str, str, str], reply: str) -> str:
    return f"User: {REQUEST.format(*kind)}\nAssistant: {reply}"


def _turn(kind: tuple[str, str, str], sentences: Iterator[str]) -> str:
    return _said(kind, _reply(kind, sentences))
