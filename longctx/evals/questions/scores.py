"""Ways to score an answer against what it should hold. All return a number from 0 to 1 and never raise."""

import re
from collections.abc import Collection, Sequence

_WORD = re.compile(r"\w+")


def share_held(answer: str, gold: tuple[str, ...]) -> float:
    """The share of the gold strings that the answer holds as whole words, whatever their case."""
    return sum(map(answer_holds(answer), gold)) / len(gold)


def share_contained(answer: str, gold: tuple[str, ...]) -> float:
    """The share of the gold strings that the answer contains, be it within words, whatever their case."""
    lower = answer.lower()
    return sum(text.lower() in lower for text in gold) / len(gold)


def all_held(answer: str, gold: tuple[str, ...]) -> float:
    """1 where the answer holds every gold string as whole words, else 0."""
    return float(all(map(answer_holds(answer), gold)))


def answer_holds(answer: str):
    """A function: whether the answer holds a string as whole words, whatever their case."""
    lower = answer.lower()
    return lambda text: re.search(rf"(?<!\w){re.escape(text.lower())}(?!\w)", lower) is not None


def first_integer(answer: str) -> int | None:
    """The first integer in an answer, None where there is none."""
    found = re.search(r"-?\d+", answer)
    return int(found[0]) if found and len(found[0]) < 1000 else None


def first_line(answer: str) -> str:
    """The first line that is not empty, without spaces around it."""
    return next((line.strip() for line in answer.splitlines() if line.strip()), "")


def set_f1(found: Collection, gold: Collection) -> float:
    """The harmonic mean of precision and recall of a set; 1 where both are empty."""
    found, gold = set(found), set(gold)
    if not found and not gold:
        return 1.0
    both = len(found & gold)
    return 2 * both / (len(found) + len(gold))


def only_held(answer: str, candidates: tuple[str, ...]) -> float:
    """1 where the answer holds the first of the candidates and none of the others, else 0.

    They are looked for as whole words, whatever their case; words joined by hyphens are one word.
    """
    lower = answer.lower()
    held = [re.search(rf"(?<![\w-]){re.escape(text.lower())}(?![\w-])", lower) is not None for text in candidates]
    return float(held[0] and not any(held[1:]))


def after(answer: str, prefix: str) -> str:
    """The first line that is not empty behind the last mention of a prefix; of the whole answer without a mention."""
    _, mention, said = answer.rpartition(prefix.strip())
    return first_line(said if mention else answer)


def first_named(answer: str, names: Collection[str]) -> str | None:
    """The name that comes first in the answer as whole words, whatever their case; None where none does."""
    lower = answer.lower()
    found = [(re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", lower), name) for name in names]
    return min(((at.start(), name) for at, name in found if at), default=(0, None))[1]


def near(count: int | None, gold: int) -> float:
    """0.75 to the power of the error of a count, as OOLONG (arXiv 2511.02817) scores counts; 0 where there is none."""
    return 0.0 if count is None else 0.75 ** min(abs(count - gold), 1000)


def named_in_order(answer: str, gold: tuple[str, ...], known: Collection[str]) -> float:
    """1 where the first of the known names that the answer holds, as whole words, are the gold in its order, else 0.

    An answer that lists what is known does not pass. Of known names that begin at the same word the longest counts.
    """
    parts = lambda text: tuple(_WORD.findall(text.lower()))
    names = {parts(name) for name in known}
    lengths, said = sorted({len(name) for name in names}, reverse=True), parts(answer)
    found, at = [], 0
    while at < len(said) and len(found) < len(gold):
        length = next((length for length in lengths if said[at : at + length] in names), 0)
        found += [said[at : at + length]] if length else []
        at += length or 1
    return float(found == [parts(name) for name in gold])


def leading_share(found: Sequence, gold: Sequence) -> float:
    """The share of the gold that comes before the first difference."""
    pairs = enumerate(zip(found, gold, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(found), len(gold))) / len(gold)
