"""RULER's tasks with its own prompts, parameters and lengths, so that scores can be compared with published ones.

Lengths count the prompt and the tokens of an answer, as there. What differs from the public generators:

- one start token more is counted;
- no key, value, name or coded word comes twice, and no two coded words that matter are equally frequent, so that every
  question has one answer;
- items of lists are in an order of each sample's own, where there the order is of a fixed seed;
- each sample grows to the largest size that fits, where there all begin with the largest of one of them, and lose lines
  (25 needles, 500 words of an essay, ...) until they fit;
- essays are the user's (eval.essays) or else generated prose, and their sentences end where a capital follows a period;
- the example of variables has 16 lines of noise, where there it has what 500 tokens hold: 17 at 4 bytes a token;
- more common words than the package has (8,168) are made up, where there another list is taken.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from longctx.evals.questions import ruler_templates as say
from longctx.evals.questions import ruler_words, scores, words
from longctx.evals.questions.question import CHOICES, Guessed, Query, Sample

SOURCE = "{task} (arXiv 2404.06654) with its own prompts and parameters; ruler_official.py says what differs"
HAYSTACKS = ("noise", "essay", "needles")
_NEEDLE = re.compile(r"One of the special magic \w+ for (.+?) is: ([\w-]+)\.")


class Contained(Guessed):
    """Tasks that score the share of the gold that an answer contains, be it within words, whatever its case."""

    def score(self, answer: str, query: Query) -> float:
        """See Questions."""
        return scores.share_contained(answer, query.gold)


@dataclasses.dataclass(frozen=True)
class RulerNeedles(Contained):
    """Values are asked for by key.

    Attributes:
      keys, values, asked, by, of: see needles.Needles.
      haystack: "noise", "essay" or "needles".
      digits: of numbers.
      version: 1, or 2 for RULERv2, whose keys in the haystack have as many values as the one that is asked for.
      essays: a folder of texts; "" for generated prose.
    """

    keys: int = 1
    values: int = 1
    asked: int = 1
    by: str = "words"
    of: str = "numbers"
    haystack: str = "essay"
    digits: int = 7
    version: int = 1
    essays: str = ""
    budget: int = say.SEVERAL.tokens
    scope: str = "low"

    def __post_init__(self):
        few = 1 <= self.asked <= self.keys and 1 <= self.values and self.keys * self.values <= len(say.DEPTHS)
        if not few or self.haystack not in HAYSTACKS:
            raise ValueError(
                f"{self} asks for more keys than are hidden, hides too many, or is of an unknown haystack."
            )

    @property
    def what(self) -> str:
        """See Questions."""
        hay = {"essay": "essays" if self.essays else "generated prose"}.get(self.haystack, self.haystack)
        return f"{self.asked} of {self.keys} keys of {self.values} {self.of} by {self.by}, in {hay}, in RULER's words"

    @property
    def smallest(self) -> int:
        """See Questions."""
        return {"essay": 64, "needles": CHOICES - 1}.get(self.haystack, self.keys * self.values)

    @property
    def source(self) -> str:
        """See Questions."""
        return SOURCE.format(task="RULER's niah" if self.version == 1 else "RULERv2's basic niah")

    @property
    def diffusion(self) -> str:
        """See Questions."""
        return "high" if self.haystack == "needles" or self.keys > 1 else "low"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: sentences of the haystack; words of an essay."""
        values = self._stream(self.of, rng)
        hidden = {key: words.take(values, self.values) for key in words.take(self._stream(self.by, rng), self.keys)}
        facts = [self._needle(key, value) for key, own in hidden.items() for value in own]
        percents, shares = rng.permutation(say.DEPTHS)[: len(facts)], rng.random(len(facts))
        others, keys = words.take(values, CHOICES - 1), words.permuted(rng, list(hidden))
        asked, left = keys[: self.asked], keys[self.asked :]
        hay = np.random.default_rng(rng.integers(1 << 62))
        if self.haystack == "essay":
            shares = percents / 100
            text = _between(ruler_words.sentences(hay, self.essays, size), shares, facts)
        else:
            lines = [say.NOISE] * size
            if self.haystack == "needles":  # the other values come first, so that candidates are in the text
                lines = self._needles(hay, itertools.chain(others, values), size, hidden)
            text = "\n".join(ruler_words.inserted(lines, shares, facts))
        query, *shown = [self._query(some, hidden) for some in (asked, *([key] for key in left))]
        if len(query.gold) == 1:
            candidates = (*query.gold, *[hidden[key][0] for key in left], *others)[:CHOICES]
            query = query._replace(candidates=candidates, depth=float(shares[list(hidden).index(asked[0])]))
        before = self._template(len(query.gold)).before.format(values=self._named(len(query.gold)))
        return Sample(before + text, (query,), tuple(shown))

    def _query(self, keys: list[str], hidden: dict[str, list[str]]) -> Query:
        """The question for all values of some keys."""
        gold = tuple(value for key in keys for value in hidden[key])
        listed = f"{', '.join(keys[:-1])}, and {keys[-1]}" if len(keys) > 1 else keys[0]
        said, template = dict(values=self._named(len(gold)), keys=listed), self._template(len(gold))
        return Query(template.question.format(**said), template.prefix.format(**said), gold)

    def _template(self, count: int) -> say.Template:
        """What is said where so many values are asked for."""
        return say.SINGLE if count == 1 else say.SEVERAL if self.version == 1 else say.SEVERAL_V2

    def _named(self, count: int) -> str:
        return self.of.removesuffix("s") if count == 1 else self.of

    def _needles(self, hay: np.random.Generator, values: Iterator[str], size: int, hidden) -> list[str]:
        """Needles of other keys, in a random order."""
        keys = words.take(self._stream(self.by, hay, hidden), -(-size // self.values)) * self.values
        pairs = zip(keys, words.take(values, size), strict=False)
        return words.permuted(hay, [self._needle(key, value) for key, value in pairs])

    def _needle(self, key: str, value: str) -> str:
        return say.NEEDLE.format(values=self.of, key=key, value=value)

    def _stream(self, kind: str, rng: np.random.Generator, without=()) -> Iterator[str]:
        streams = {
            "words": lambda: ruler_words.keys(rng, without),
            "numbers": lambda: words.integers(rng, self.digits, without),
            "uuids": lambda: words.uuids(rng),
        }
        return streams[kind]()

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition("\nWhat ")
        keys = re.findall(r"^.*? special magic \w+ for (.*?) mentioned in", question)[0]
        found: dict[str, list[str]] = {}
        for key, value in _NEEDLE.findall(context):
            found.setdefault(key, []).append(value)
        return ", ".join(value for key in re.split(r", (?:and )?", keys) for value in found[key])


@dataclasses.dataclass(frozen=True)
class RulerVariables(Contained):
    """Variables that hold a value, be it by other variables, are asked for, after an example of shorter names.

    Attributes:
      hops: assignments of the chain from a variable to the next.
    """

    hops: int = 4
    budget: int = say.VARIABLES.tokens
    what: str = "all variables of a chain, hidden in noise, in RULER's words"
    source: str = SOURCE.format(task="RULER's vt")
    scope: str = "low"
    diffusion: str = "high"

    def __post_init__(self):
        if self.hops < 1:
            raise ValueError(f"{self} has no chain to follow.")

    @property
    def smallest(self) -> int:
        """See Questions."""
        return self.hops + 1

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: lines of noise."""
        example, told = self._text(rng, 3, EXAMPLE_NOISE)
        text, query = self._text(rng, 5, size)
        shown = f"{example}{told.question}{told.prefix}  {' '.join(told.gold)}\n\n"
        return Sample(shown + text, (query,))

    def _text(self, rng: np.random.Generator, letters: int, size: int) -> tuple[str, Query]:
        names = [code.upper() for code in words.take(words.codes(rng, letters), self.hops + 1)]
        value, shares = str(int(rng.integers(10_000, 99_999))), np.sort(rng.random(len(names)))
        chain = [say.FIRST.format(name=names[0], value=value)]
        chain += [say.NEXT.format(name=new, before=old) for old, new in itertools.pairwise(names)]
        said = dict(value=value, count=len(names))
        query = Query(say.VARIABLES.question.format(**said), say.VARIABLES.prefix.format(**said), tuple(names))
        return say.VARIABLES.before + "\n".join(ruler_words.inserted([say.NOISE] * size, shares, chain)), query

    def solve(self, prompt: str) -> str:
        """See Questions."""
        text, values = prompt.rpartition(say.VARIABLES.before)[2], {}
        for name, given in re.findall(r"^VAR (\w+) = (?:VAR )?(\w+) ?$", text, re.MULTILINE):
            values[name] = values.get(given, given)
        asked = re.findall(r"assigned the value (\d+) in", text)[-1]
        return " ".join(name for name, value in values.items() if value == asked)


@dataclasses.dataclass(frozen=True)
class RulerCommonWords(Contained):
    """The ten words that a list has more often than others are asked for, after an example.

    Attributes:
      often, seldom: times that a common word and another come: in contexts of less than 4,096 tokens 6 and 1.
      example: different words of the example, and both times: in contexts of less than 4,096 tokens 20, 3 and 1.
    """

    often: int = 30
    seldom: int = 3
    example: tuple[int, int, int] = (40, 10, 3)
    budget: int = say.COMMON.tokens
    smallest: int = 1
    source: str = SOURCE.format(task="RULER's cwe")
    scope: str = "high"
    diffusion: str = "low"

    def __post_init__(self):
        if not self.often > self.seldom > 0 or not self.example[0] >= COMMON:
            raise ValueError(f"{self} has no words that are more common than others.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"{COMMON} words that are {self.often} times in a list, others {self.seldom} times, in RULER's words"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: different words that are not common."""
        known = ruler_words.listed("noun", "adjective", "verb")
        count, often, seldom = self.example
        shown = [known[i] for i in rng.permutation(len(known))[:count]]
        common = [known[i] for i in rng.permutation(len(known))[:COMMON]]
        told = _numbered(words.permuted(rng, shown[:COMMON] * often + shown[COMMON:] * seldom))
        hay = np.random.default_rng(rng.integers(1 << 62))
        left = (known[i] for i in hay.permutation(len(known)).tolist() if known[i] not in common)
        taken = set(known)
        more = (word for word in words.coined(hay) if word not in taken)
        others = words.take(itertools.chain(left, more), size)
        text = _numbered(words.permuted(hay, common * self.often + others * self.seldom))
        behind = say.COMMON.question + say.COMMON.prefix
        example = f"{say.COMMON.before}{told}{behind} {_numbered(shown[:COMMON])}\n"
        query = Query(say.COMMON.question, say.COMMON.prefix, tuple(common))
        return Sample(example + say.COMMON.before + text, (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        text = prompt.rpartition(say.COMMON.before)[2].partition("\n")[0]
        counts = Counter(re.split(r" ?\d+\. ", text)[1:])
        return _numbered([word for word, _ in counts.most_common(COMMON)])


@dataclasses.dataclass(frozen=True)
class RulerFrequentWords(Contained):
    """The three most frequent words of a coded text are asked for: rank k is there 1/k^2 times as often as the first.

    The first is dots, which do not count.
    """

    budget: int = say.FREQUENT.tokens
    what: str = "3 most frequent of coded words by Zipf's law of exponent 2, in RULER's words"
    source: str = SOURCE.format(task="RULER's fwe")
    smallest: int = 45  # counts of ranks 4 and 5 differ: 45/16 - 45/25 > 1
    scope: str = "high"
    diffusion: str = "low"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: how often the dots come."""
        coded = words.codes(rng, 6)
        asked = words.take(coded, 3)
        hay = np.random.default_rng(rng.integers(1 << 62))
        counts = [size // rank**2 for rank in range(1, int(size**0.5) + 1)]
        vocabulary = ["...", *asked, *words.take(coded, len(counts) - 1 - len(asked))]
        text = [word for word, count in zip(vocabulary, counts, strict=True) for _ in range(count)]
        query = Query(say.FREQUENT.question, say.FREQUENT.prefix, tuple(asked))
        return Sample(say.FREQUENT.before + " ".join(words.permuted(hay, text)), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        text = prompt.rpartition(say.FREQUENT.before)[2].partition("\n")[0]
        counts = Counter(word for word in text.split() if word != "...")
        return " ".join(word for word, _ in counts.most_common(3))


COMMON = 10  # common words of a list
EXAMPLE_NOISE = 16  # lines of noise in the example of variables


def _numbered(items: list[str]) -> str:
    return " ".join(f"{i}. {item}" for i, item in enumerate(items, 1))


def _between(sentences: list[str], shares: np.ndarray, facts: list[str]) -> str:
    """The text with the facts between its sentences, each behind a share of them, in the order of the shares."""
    order = np.argsort(shares).tolist()
    cuts = [0, *(int(len(sentences) * shares[i]) for i in order), len(sentences)]
    parts = [" ".join(sentences[start:end]) for start, end in itertools.pairwise(cuts)]
    return " ".join([*itertools.chain(*zip(parts, (facts[i] for i in order), strict=False)), parts[-1]])
