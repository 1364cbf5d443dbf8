"""Questions about records whose topic is not written in them but follows from them: counts, comparisons, pairs."""

import dataclasses
import datetime
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import Query, Sample

TOPICS = {
    "animal": "badger camel crow donkey eagle ferret goat heron lizard otter pigeon tortoise".split(),
    "tool": "anvil axe chisel drill hammer ladder pliers rake saw shovel spanner wrench".split(),
    "fruit": "apple apricot cherry fig grape lemon mango melon orange peach pear plum".split(),
    "garment": "apron belt boot cloak coat glove hat jacket scarf shirt sock vest".split(),
}
NAMES = tuple(TOPICS)
THINGS = 12  # of a topic
OWN = 12  # records of a user that is not asked about
SPOTS = "bridge bench cellar fence fountain gate hedge lamp mill pond shed stairs station tower wall well".split()
INTRO = (
    "Each line below is a record: the day, the user, and what the user wrote. Each record has a topic, which follows "
    "from the thing that it names.\n"
)
FIRST_DAY = datetime.date(2021, 1, 1).toordinal()
DAYS = 1461  # four years
_RECORD = re.compile(r"^(\S+) \| (\w+) \| \w+ the \w+ there was some \w+ (\w+)", re.MULTILINE)
_TOPIC_OF = {thing: topic for topic, things in TOPICS.items() for thing in things}


class Record(NamedTuple):
    """A record; day: as a proleptic ordinal; topic: its number."""

    day: int
    user: str
    topic: int


def written(rng: np.random.Generator, records: list[Record]) -> list[str]:
    """A line for each record."""
    rows = words.picks(rng, len(records), len(words.PLACES), len(SPOTS), len(words.ADJECTIVES), THINGS)
    lines = []
    for (place, spot, adjective, thing), (day, user, topic) in zip(rows, records, strict=True):
        named = f"{words.ADJECTIVES[adjective]} {TOPICS[NAMES[topic]][thing]}"
        text = f"{words.PLACES[place].capitalize()} the {SPOTS[spot]} there was some {named}."
        lines.append(f"{datetime.date.fromordinal(day)} | {user} | {text}")
    return lines


def counted(rng: np.random.Generator, users: list[str], counts: np.ndarray) -> list[Record]:
    """Records of random days, of each user (row) and topic (column) as many as the array of counts says."""
    rows, topics = (np.repeat(at, counts.ravel()).tolist() for at in np.indices(counts.shape).reshape(2, -1))
    days = rng.integers(FIRST_DAY, FIRST_DAY + DAYS, len(rows)).tolist()
    return [Record(day, users[row], topic) for day, row, topic in zip(days, rows, topics, strict=True)]


def context(rng: np.random.Generator, facts: list[str], users: Iterator[str], size: int) -> str:
    """A text of the lines of `facts` among `size` records of other users, a dozen of each, in a random order."""
    others = words.take(users, math.ceil(size / OWN))
    of_days, of_texts = rng.spawn(2)
    more = [
        Record(FIRST_DAY + day, others[i // OWN], topic)
        for i, (day, topic) in enumerate(words.picks(of_days, size, DAYS, len(NAMES)))
    ]
    topics_told = "".join(f"Topic {topic}: {', '.join(things)}.\n" for topic, things in TOPICS.items())
    return INTRO + topics_told + "\n".join(words.permuted(rng, facts + written(of_texts, more)))


def read(prompt: str) -> list[tuple[str, str, str]]:
    """(day, user, topic) of each record in a prompt."""
    return [(day, user, _TOPIC_OF[thing]) for day, user, thing in _RECORD.findall(prompt)]


MOST = ("\nWhich topic is the most common among the records of {}?", " The most common topic is")
COUNT = ("\nHow many records of {} have the topic {}?", " The number of those records is")
VERSUS = (
    "\nAmong the records of {}, is the topic {} more common than {}, less common or equally common?",
    " Compared with the other topic, it is",
)
WHEN = ("\nDoes {} have more records of the topic {} before {} or after it?", " More of them are from")
LEADER = ("\nWho of {} has the most records of the topic {}?", " The most are by")
RELATIONS = ("more", "less", "equally")
SIDES = ("before", "after")


@dataclasses.dataclass(frozen=True)
class Tally:
    """Four users' records are counted and compared, among records of others.

    There are five questions of a context: the commonest topic of a user, a count, whether a topic is more common than
    another, whether one was more common before a day or after it, and who has most of a topic.

    Attributes:
      most: records of a user and topic, of at least 2.
    """

    most: int = 8
    what: str = "five questions about how many records of users have topics, which follow from what they name"
    budget: int = 32
    smallest: int = 6
    source: str = (
        "OOLONG-synth (arXiv 2511.02817), with generated records in place of labelled data sets, questions about named "
        "users alone, and no gold that is tied"
    )
    diffusion: str = "high"
    scope: str = "high"

    def __post_init__(self):
        if self.most < 5:
            raise ValueError(f"Four different counts from 2 on are more than {self.most}.")

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: records of users that are not asked about."""
        users = words.coined(rng)
        asked, topics = words.take(users, 4), rng.permutation(len(NAMES)).tolist()
        counts = self._counts(rng, topics)
        summed, timed = rng.integers(0, len(NAMES), 2).tolist()
        cut, side = FIRST_DAY + int(rng.integers(DAYS // 3, 2 * DAYS // 3)), int(rng.integers(2))
        anytime = counts.copy()
        anytime[3, timed] = 0
        records = counted(rng, asked, anytime)
        records += [Record(day, asked[3], timed) for day in _split(rng, counts[3, timed], cut, side)]
        third, (_, one, other, _) = counts[2], topics
        relation = RELATIONS[0 if third[one] > third[other] else 1 if third[one] < third[other] else 2]
        day = datetime.date.fromordinal(cut)
        queries = (
            _query(MOST, (asked[0],), NAMES[int(np.argmax(counts[0]))], NAMES),
            _query(COUNT, (asked[1], NAMES[summed]), str(counts[1, summed])),
            _query(VERSUS, (asked[2], NAMES[one], NAMES[other]), relation, RELATIONS),
            _query(WHEN, (asked[3], NAMES[timed], day), SIDES[side], SIDES),
            _query(LEADER, (words.listed(asked), NAMES[topics[0]]), asked[int(np.argmax(counts[:, topics[0]]))], asked),
        )
        facts = written(rng, records)
        hay = np.random.default_rng(rng.integers(1 << 62))
        return Sample(context(hay, facts, users, size), queries)

    def _counts(self, rng: np.random.Generator, topics: list[int]) -> np.ndarray:
        """Counts by user and topic, each uniform from 2 to `most`.

        They are all different for a user and for the first of the topics; but a third of the time, the third user has
        the second and third of the topics equally often.
        """
        counts = np.zeros((4, len(NAMES)), int)
        values = np.arange(2, self.most + 1)
        counts[:, topics[0]] = rng.permutation(values)[:4]
        for row in counts:
            row[topics[1:]] = rng.permutation(values[values != row[topics[0]]])[: len(topics) - 1]
        if rng.integers(3) == 0:
            counts[2, topics[2]] = counts[2, topics[1]]
        return counts

    def solve(self, prompt: str) -> str:
        """See Questions."""
        question = prompt.rpartition("\n")[2]
        for pattern, solver in _SOLVERS:
            if found := pattern.match(question):
                return solver(read(prompt), *found.groups())
        raise ValueError(f"{question} is not a question about records.")

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the candidate that comes first in the answer is right; by the error of a count."""
        if query.candidates:
            return float(scores.first_named(answer, query.candidates) == query.gold[0])
        return scores.near(scores.first_integer(answer), int(query.gold[0]))

    def chance(self, query: Query) -> float:
        """See Questions."""
        return 1 / len(query.candidates) if query.candidates else _best_constant(2, self.most)


def _split(rng: np.random.Generator, count: int, cut: int, side: int) -> list[int]:
    """Days of so many records of which more are before the day `cut` (side 0) or after it (side 1); none is of it."""
    more = int(rng.integers(count // 2 + 1, count + 1))
    before = count - more if side else more
    after = rng.integers(cut + 1, FIRST_DAY + DAYS, count - before)
    return [*rng.integers(FIRST_DAY, cut, before).tolist(), *after.tolist()]


def _query(form: tuple[str, str], said: tuple, gold: str, candidates: Iterable[str] = ()) -> Query:
    """A question; candidates: in any order."""
    among = list(candidates)
    return Query(
        form[0].format(*said), form[1], (gold,), (gold, *(one for one in among if one != gold)) if among else ()
    )


@functools.cache
def _best_constant(low: int, high: int) -> float:
    """The best expected score of a fixed count where counts are uniform from low to high."""
    counts = range(low, high + 1)
    return max(sum(scores.near(guess, count) for count in counts) / len(counts) for guess in counts)


def _most(records: list[tuple[str, str, str]], user: str) -> str:
    return Counter(topic for _, owner, topic in records if owner == user).most_common(1)[0][0]


def _count(records: list[tuple[str, str, str]], user: str, topic: str) -> int:
    return sum(record[1:] == (user, topic) for record in records)


def _versus(records: list[tuple[str, str, str]], user: str, topic: str, other: str) -> str:
    more = _count(records, user, topic) - _count(records, user, other)
    return RELATIONS[0 if more > 0 else 1 if more < 0 else 2]


def _when(records: list[tuple[str, str, str]], user: str, topic: str, cut: str) -> str:
    days = [day for day, *of in records if of == [user, topic]]
    return SIDES[0 if sum(day < cut for day in days) > sum(day > cut for day in days) else 1]


def _who(records: list[tuple[str, str, str]], users: str, topic: str) -> str:
    return max(re.split(", | and ", users), key=lambda user: _count(records, user, topic))


def _pattern(form: tuple[str, str]) -> re.Pattern:
    return re.compile(re.escape(form[0].strip()).replace(r"\{\}", "(.+)"))


_SOLVERS: tuple[tuple[re.Pattern, Callable[..., str]], ...] = (
    (_pattern(MOST), _most),
    (_pattern(COUNT), lambda *asked: str(_count(*asked))),
    (_pattern(VERSUS), _versus),
    (_pattern(WHEN), _when),
    (_pattern(LEADER), _who),
)


@dataclasses.dataclass(frozen=True)
class TallyPairs:
    """All pairs of some users who write of the same topic most often are asked for, among records of others.

    Attributes:
      users: how many are named.
      most: records that each has of the commonest topic; of any other there are fewer.
    """

    users: int = 8
    most: int = 3
    smallest: int = 6
    source: str = (
        "OOLONG-Pairs, of Recursive Language Models (arXiv 2512.24601), with generated records and pairs of named "
        "users alone"
    )
    diffusion: str = "high"
    scope: str = "high"

    def __post_init__(self):
        if self.users <= len(NAMES) or self.most < 1:
            raise ValueError(f"{self} may have no pair: there are {len(NAMES)} topics.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"the pairs of {self.users} users whose records have the same topic most often"

    @property
    def budget(self) -> int:
        """See Questions: all pairs by letters, with some room."""
        return 20 * math.comb(self.users, 2)

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: records of users that are not asked about."""
        stream = words.coined(rng)
        users, tops = words.take(stream, self.users), rng.integers(0, len(NAMES), self.users)
        counts = rng.integers(0, self.most, (self.users, len(NAMES)))
        counts[np.arange(self.users), tops] = self.most
        facts = written(rng, counted(rng, users, counts))
        same = (pair for pair in itertools.combinations(range(self.users), 2) if tops[pair[0]] == tops[pair[1]])
        query = Query(
            f"\nWhich topic does a user write of most often? List all pairs of {words.listed(users)} for whom that is "
            "the same topic. Write each pair once, as (name, name).",
            " The pairs are:",
            tuple(f"({users[one]}, {users[other]})" for one, other in same),
        )
        hay = np.random.default_rng(rng.integers(1 << 62))
        return Sample(context(hay, facts, stream, size), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        users = re.split(", | and ", re.findall(r"all pairs of (.*) for whom", prompt)[-1])
        counts: dict[str, Counter] = {user: Counter() for user in users}
        for _, user, topic in read(prompt):
            if user in counts:
                counts[user][topic] += 1
        top = {user: count.most_common(1)[0][0] for user, count in counts.items()}
        return ", ".join(f"({a}, {b})" for a, b in itertools.combinations(users, 2) if top[a] == top[b])

    def score(self, answer: str, query: Query) -> float:
        """See Questions: the F1 of the pairs, whatever the order of their two."""
        return scores.set_f1(_pairs(answer), _pairs(" ".join(query.gold)))

    def chance(self, query: Query) -> float:
        """See Questions: that of all pairs. Where each is as likely to be right, F1 grows with how many are named."""
        return _all_pairs(self.users)


def _pairs(text: str) -> set[frozenset[str]]:
    return {frozenset(pair) for pair in re.findall(r"\(\s*(\w+)\s*,\s*(\w+)\s*\)", text.lower())}


@functools.cache
def _all_pairs(users: int) -> float:
    """The expected F1 of all pairs, over all ways to give each user one of the topics."""
    pairs, total = math.comb(users, 2), 0.0
    for sizes in itertools.product(range(users + 1), repeat=len(NAMES)):
        if sum(sizes) == users:
            ways = math.factorial(users) / math.prod(map(math.factorial, sizes))
            right = sum(math.comb(size, 2) for size in sizes)
            total += ways * 2 * right / (pairs + right)
    return total / len(NAMES) ** users
