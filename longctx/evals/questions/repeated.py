"""A word again and again, and once another that is almost the same."""

import dataclasses
import string
from collections import Counter

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import CHOICES, Guessed, Query, Sample


@dataclasses.dataclass(frozen=True)
class RepeatedWords(Guessed):
    """The one exception in a repeated word is asked for: the word with another letter in a place of it."""

    what: str = "the one word that differs by a letter from the others of a text"
    budget: int = 16
    smallest: int = 8
    source: str = (
        "repeated words of Context Rot (Hong et al. 2025), where all of the text is to be copied; here the exception "
        "alone, so that the answer does not grow with the text"
    )
    diffusion: str = "high"
    scope: str = "low"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: times that the word comes."""
        word, depth = words.NOUNS[int(rng.integers(len(words.NOUNS)))], float(rng.random())
        others = [
            word[:at] + letter + word[at + 1 :]
            for at in range(len(word))
            for letter in string.ascii_lowercase
            if letter != word[at]
        ]
        variants = words.permuted(rng, others)[:CHOICES]
        query = Query(
            "\nWhich word of the text differs from all the others?",
            " The word that differs is",
            (variants[0],),
            tuple(variants),
            depth,
        )
        intro = "The text below is a single word, repeated. In one place only, another word stands instead.\n"
        return Sample(intro + " ".join(words.placed([word] * size, [(depth, variants[0])])), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        text = prompt.rpartition("\n")[0].rpartition("\n")[2]
        return Counter(text.split()).most_common()[-1][0]

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the answer holds the exception, as a whole word."""
        return scores.all_held(answer, query.gold)
