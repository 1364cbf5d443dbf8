"""Recall of values by key: JSON of UUIDs, pairs of words before a long text, and keys that several contexts share."""

import dataclasses
import re

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import CHOICES, Guessed, Query, Sample


@dataclasses.dataclass(frozen=True)
class JsonPairs(Guessed):
    """Values in a JSON object of UUIDs, by key.

    Attributes:
      asked: queries of one context.
    """

    asked: int = 1
    budget: int = 40
    smallest: int = CHOICES
    diffusion: str = "high"
    scope: str = "low"
    source: str = (
        "json_kv of HELMET (arXiv 2410.02694: 105, 220, 440, 900, 1800 pairs for 8K to 128K tokens) and Retrieve.KV of "
        "InfiniteBench (arXiv 2402.13718: 2500 pairs), with our own instructions and no examples; several queries of "
        "one context as in SCBench's multi-request mode (arXiv 2412.10319)"
    )

    @property
    def what(self) -> str:
        """See Questions."""
        return "a UUID by its key in JSON" + (f", {self.asked} queries of one context" if self.asked > 1 else "")

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: pairs that nobody asks for."""
        keys, values = words.many_uuids(rng, self.asked), words.many_uuids(rng, self.asked)
        depths, others = rng.random(self.asked), words.many_uuids(rng, CHOICES - 1)
        drawn = np.random.default_rng(rng.integers(1 << 62))
        hay = words.many_uuids(drawn, 2 * size)
        said = [*others, *hay[1::2][len(others) :]]  # so that candidates are in the text
        lines = [_quoted(hay[2 * i], said[i]) for i in drawn.permutation(size)]
        facts = [(depths[i], _quoted(keys[i], values[i])) for i in range(self.asked)]
        context = "Here is a JSON object; its values will be asked for by their keys.\n{"
        queries = [
            Query(*_by_key(keys[i]), (values[i],), (values[i], *others), float(depths[i])) for i in range(self.asked)
        ]
        shown = [Query(*_by_key(key), (value,)) for key, value in zip(hay[::2], others, strict=False)]
        return Sample(context + ", ".join(words.placed(lines, facts)) + "}", tuple(queries), tuple(shown))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition("\n")
        return dict(re.findall(r'"(\S+)": "(\S+)"', context))[re.findall(r'key "(\S+)"', question)[0]]

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the answer holds the value."""
        return scores.share_held(answer, query.gold)


@dataclasses.dataclass(frozen=True)
class Associations(Guessed):
    """Multi-query associative recall: pairs of words come first, then words that belong to no pair, then the queries.

    Attributes:
      pairs: of a key and a value; every word is at most one of them.
      asked: queries of one context.
    """

    pairs: int = 64
    asked: int = 8
    budget: int = 16
    smallest: int = 16
    diffusion: str = "low"
    scope: str = "low"
    source: str = (
        "MQAR of Zoology (arXiv 2312.04927: 4 to 64 pairs within 64 to 512 tokens, vocabulary 8192), in words; the gap "
        "from pair to query is the haystack, rather than drawn from a power law, and queries are asked one by one"
    )

    def __post_init__(self):
        most = min(len(words.ADJECTIVES), len(words.NOUNS)) - CHOICES  # the haystack needs some words, too
        if not CHOICES <= self.pairs <= most or not 1 <= self.asked <= self.pairs:
            raise ValueError(f"{self}: from {CHOICES} to {most} pairs, and at most as many keys asked for, would do.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"words by key: {self.pairs} pairs, then other words, then {self.asked} keys"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: lines of two words that are in no pair."""
        keys = words.permuted(rng, words.ADJECTIVES)
        values = words.permuted(rng, words.NOUNS)
        asked, left = np.split(rng.permutation(self.pairs), [self.asked])
        wrong = rng.permuted(np.tile(np.arange(1, self.pairs), (self.asked, 1)), axis=1)[:, : CHOICES - 1]
        hay = np.random.default_rng(rng.integers(1 << 62))
        firsts, seconds, drawn = keys[self.pairs :], values[self.pairs :], hay.random((size, 2))
        lines = [f"{firsts[int(i * len(firsts))]} {seconds[int(j * len(seconds))]}" for i, j in drawn.tolist()]
        pairs = [f"{keys[i]} {values[i]}" for i in range(self.pairs)]
        queries = [
            Query(
                f"\n\n{keys[i]}",
                "",
                (values[i],),
                (values[i], *[values[(i + other) % self.pairs] for other in wrong[row]]),
                0.0,
            )
            for row, i in enumerate(asked.tolist())
        ]
        shown = tuple(Query(f"\n\n{keys[i]}", "", (values[i],)) for i in left)
        return Sample("\n".join(["Pairs of words:", *pairs, *lines]), tuple(queries), shown)

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, key = prompt.rpartition("\n\n")
        return re.findall(rf"^{key} (\w+)$", context, re.MULTILINE)[0]

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the first of the words that are values is the right one."""
        return scores.named_in_order(answer, query.gold, words.NOUNS)


@dataclasses.dataclass(frozen=True)
class JointRecall(Guessed):
    """Values by context and key: every context has the same keys, each with a value of its own.

    Attributes:
      contexts: that are drawn with the question, one of them asked for; candidates are values of these.
      keys: of a context.
      asked: queries of one text.
    """

    contexts: int = 16
    keys: int = 16
    asked: int = 4
    budget: int = 16
    smallest: int = 1
    diffusion: str = "high"
    scope: str = "low"
    source: str = (
        "joint recall of HAX (arXiv 2507.00449: up to 16 contexts of 16 keys), in words and five-digit numbers; more "
        "contexts with the same keys make it longer, and queries are asked one by one"
    )

    def __post_init__(self):
        if self.contexts <= CHOICES // 2 or not CHOICES // 2 <= self.keys <= len(words.NOUNS):
            raise ValueError(f"{self} has too few contexts or keys for its candidates, or more keys than are known.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"numbers by context and key, {self.keys} keys that all contexts share"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: further contexts."""
        names = words.keys(rng)
        contexts = words.take(names, self.contexts)
        keys = words.permuted(rng, words.NOUNS)[: self.keys]
        drawn = iter(words.take(words.integers(rng, 5), self.contexts * self.keys))
        values = [words.take(drawn, self.keys) for _ in contexts]
        depths = rng.random(self.contexts)
        asked = rng.permutation(self.contexts * self.keys)[: self.asked]
        queries = tuple(self._query(rng, *divmod(int(i), self.keys), contexts, keys, values, depths) for i in asked)
        hay = np.random.default_rng(rng.integers(1 << 62))
        more = hay.integers(10_000, 100_000, (size, self.keys)).tolist()
        lines = [_context(name, keys, own) for name, own in zip(words.take(names, size), more, strict=True)]
        facts = [(depths[i], _context(contexts[i], keys, values[i])) for i in range(self.contexts)]
        return Sample(
            "\n".join(["Each line lists what one place holds.", *words.placed(lines, facts)]), queries, queries
        )

    def _query(self, rng, context: int, key: int, contexts, keys, values, depths) -> Query:
        """The query for a key of a context. Candidates: values of that key elsewhere, and of other keys there."""
        elsewhere = [values[i][key] for i in rng.permutation(self.contexts) if i != context]
        there = [values[context][i] for i in rng.permutation(self.keys) if i != key]
        right, half = values[context][key], CHOICES // 2
        return Query(
            f"\n\nIn the place {contexts[context]}, what is the number of the {keys[key]}?",
            f" In {contexts[context]}, {keys[key]}:",
            (right,),
            (right, *elsewhere[:half], *there[: CHOICES - 1 - half]),
            float(depths[context]),
        )

    def solve(self, prompt: str) -> str:
        """See Questions."""
        text, _, question = prompt.rpartition("\n\n")
        context, key = re.findall(r"place (\S+), what is the number of the (\w+)\?", question)[0]
        line = re.findall(rf"^In {context}, (.*)\.$", text, re.MULTILINE)[0]
        return dict(re.findall(r"(\w+): (\d+)", line))[key]

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the first number of five digits is the right one."""
        found = re.search(r"(?<!\d)\d{5}(?!\d)", answer)
        return float(found is not None and found[0] == query.gold[0])


def _by_key(key: str) -> tuple[str, str]:
    """(question, prefix) for the value of a key."""
    return f'\nGive the value that the JSON object has for the key "{key}".', " The value is:"


def _quoted(key: str, value: str) -> str:
    return f'"{key}": "{value}"'


def _context(name: str, keys: list[str], values: list) -> str:
    return f"In {name}, " + ", ".join(f"{key}: {value}" for key, value in zip(keys, values, strict=True)) + "."
