"""Where the facts of a sample stand in its haystack."""

from collections.abc import Iterable, Sequence


def among(lines: Sequence[str], facts: Iterable[tuple[float, str]]) -> list[str]:
    """The lines with each fact, (depth, text), after its share of them, from 0 to 1; facts in the order of depth.

    Facts of equal depth keep their order. Takes time linear in what it returns, but for sorting the facts.
    """
    found, start = [], 0
    for depth, text in sorted(facts, key=lambda fact: fact[0]):
        end = round(depth * len(lines))
        found += [*lines[start:end], text]
        start = end
    return [*found, *lines[start:]]
