"""Scores of free text against a gold text: words and characters in common. All return 0 to 1 and never raise."""

import collections
import re
import string
import unicodedata
from collections.abc import Callable, Sequence

from longctx.evals.questions import scores
from longctx.evals.questions.question import Query

LONGEST = 20_000  # parts of an answer that are compared, since a common subsequence takes time with their number
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_SAID = re.compile(r"(?i:answer|option)(?: is|:)[\s:*(\[\"']*([A-D])(?![A-Za-z])")
_FIRST = re.compile(r"[\s(\[*\"']*([A-D])(?![A-Za-z'])")
_BRACKETS = re.compile(r"\(([A-D])\)")


def best(score: Callable[[str, str], float]) -> Callable[[str, Query], float]:
    """A score of an answer to a query: the best over the strings of its gold, each of which is right."""

    def of_query(answer: str, query: Query) -> float:
        """The best score over the strings of the gold."""
        return max(score(answer, gold) for gold in query.gold)

    return of_query


def words(text: str) -> list[str]:
    """The words of a text as SQuAD (arXiv 1606.05250) compares them: lower case, no ASCII punctuation, no articles."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLE.sub(" ", bare).split()


def characters(text: str) -> list[str]:
    """The characters of a text in lower case, without spaces and punctuation: for scripts without spaces."""
    return [c for c in text.lower() if not c.isspace() and unicodedata.category(c)[0] != "P" and c not in "$+<=>^`|~"]


def f1(answer: str, gold: str, parts: Callable[[str], Sequence[str]] = words) -> float:
    """The harmonic mean of precision and recall of the parts, counted as often as they come."""
    found, right = parts(answer), parts(gold)
    if not found or not right:
        return float(list(found) == list(right))
    both = (collections.Counter(found) & collections.Counter(right)).total()
    return 2 * both / (len(found) + len(right))


def f1_of_characters(answer: str, gold: str) -> float:
    """The F1 of the characters."""
    return f1(answer, gold, characters)


def recall(answer: str, gold: str) -> float:
    """The share of the words of the gold, counted as often as they come, that the answer has."""
    right = collections.Counter(words(gold))
    return (collections.Counter(words(answer)) & right).total() / right.total() if right else 1.0


def rouge_l(answer: str, gold: str, parts: Callable[[str], Sequence[str]] = words) -> float:
    """ROUGE-L (Lin 2004): the F1 of the longest common subsequence of parts; texts are not cut at sentences."""
    found, right = parts(answer)[:LONGEST], parts(gold)[:LONGEST]
    if not found or not right:
        return float(list(found) == list(right))
    return 2 * in_common(found, right) / (len(found) + len(right))


def rouge_l_of_characters(answer: str, gold: str) -> float:
    """ROUGE-L of characters."""
    return rouge_l(answer, gold, characters)


def edit_similarity(answer: str, gold: str) -> float:
    """1 - edits / (sum of the lengths), where an edit puts in a character or takes one out."""
    answer, gold = answer[:LONGEST], gold[:LONGEST]
    return 2 * in_common(answer, gold) / (len(answer) + len(gold)) if answer or gold else 1.0


def in_common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence, a row of the table at a time as the bits of an integer (Hyyro
    2004)."""
    places: dict[str, int] = collections.defaultdict(int)
    for i, part in enumerate(one):
        places[part] |= 1 << i
    whole = row = (1 << len(one)) - 1
    for part in other:
        met = row & places.get(part, 0)
        row = (row + met | row - met) & whole
    return len(one) - row.bit_count()


def holds(answer: str, gold: str) -> float:
    """1 where the words of the answer, as `words` has them, hold those of the gold as a part of the text, else 0."""
    return float(" ".join(words(gold)) in " ".join(words(answer)))


def share_inside(answer: str, query: Query) -> float:
    """The share of the gold strings that are parts of the answer, whatever their case."""
    return sum(gold.lower() in answer.lower() for gold in query.gold) / len(query.gold)


def any_inside(answer: str, query: Query) -> float:
    """1 where a gold string is part of the answer, whatever its case, else 0."""
    return float(any(gold.lower() in answer.lower() for gold in query.gold))


def share_of_numbers(answer: str, query: Query) -> float:
    """The share of the numbers in an answer that are the one in the gold; 0 where there are none."""
    found, right = re.findall(r"\d+", answer), re.findall(r"\d+", query.gold[0])
    return sum(number in right[:1] for number in found) / len(found) if found else 0.0


def letter(answer: str) -> str:
    """The letter of a choice, A to D: behind "answer is" or "answer:", else the first thing said, else the first in
    brackets; "" where there is none."""
    found = _SAID.search(answer) or _FIRST.match(answer) or _BRACKETS.search(answer)
    return found[1] if found else ""


def same_letter(answer: str, query: Query) -> float:
    """1 where the answer chooses the letter of the gold, else 0."""
    return float(letter(answer) == letter(query.gold[0]))


def of_first_line(score: Callable[[str, Query], float]) -> Callable[[str, Query], float]:
    """A score of the first line that is not empty."""
    return lambda answer, query: score(scores.first_line(answer), query)
