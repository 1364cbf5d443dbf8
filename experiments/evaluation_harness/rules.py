"""Scores of answers to questions that longctx generated, as lm_eval calls them.

The exporter writes this file beside the tasks, behind longctx/evals/questions/scores.py, as utils.py: it needs nothing
else of longctx. A rule is (answer, its settings) -> a number from 0 to 1; settings are those of a line of the .jsonl.
"""

import collections
import difflib
import json
import pathlib
import re

from longctx.evals.questions.scores import (
    after,
    all_held,
    first_integer,
    first_line,
    first_named,
    leading_share,
    named_in_order,
    near,
    only_held,
    set_f1,
    share_held,
)


def documents(file, **_):
    """The questions in a .jsonl beside this file, as the dataset of a task."""
    import datasets

    lines = pathlib.Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}


def process_results(doc, results):
    """The score of an answer, under "score" and under the length of its prompt."""
    settings = json.loads(doc["scoring"])
    score = RULES[settings["by"]](results[0], settings)
    return {"score": score, str(doc["max_length"]): score}


def share_of_gold(answer, settings):
    """The share of the gold that the answer holds."""
    return share_held(answer, settings["gold"])


def whole_gold(answer, settings):
    """Whether the answer holds all of the gold."""
    return all_held(answer, settings["gold"])


def gold_alone(answer, settings):
    """Whether the answer holds the first of the candidates and no other."""
    return only_held(answer, settings["candidates"])


def gold_first(answer, settings):
    """Whether the gold is the first candidate that the answer names."""
    return float(first_named(answer, settings["candidates"]) == settings["gold"][0])


def in_order(answer, settings):
    """Whether the first known names in the answer are the gold in its order."""
    return named_in_order(answer, settings["gold"], settings["known"])


def integer(answer, settings):
    """Whether the first integer in the answer, behind a prefix if it has one, is the gold."""
    return float(first_integer(_behind(answer, settings)) == int(settings["gold"][0]))


def close_count(answer, settings):
    """How near to the gold the first integer in the answer is."""
    return near(first_integer(answer), int(settings["gold"][0]))


def first_match(answer, settings):
    """Whether the first match of a pattern in the answer is the gold."""
    found = re.search(settings["pattern"], answer)
    return float(found is not None and found[0] == settings["gold"][0])


def leading_matches(answer, settings):
    """The share of the gold, matches of a pattern in the first line, before the first difference."""
    return leading_share(re.findall(settings["pattern"], first_line(answer).lower()), settings["gold"])


def matches(answer, settings):
    """The F1 of the set of matches of a pattern in the answer."""
    return set_f1(_matches(answer, settings), settings["gold"])


def same_matches(answer, settings):
    """Whether the matches of a pattern in the answer are the gold, in any order."""
    return float({*_matches(answer, settings)} == {*settings["gold"]})


def letters(answer, settings):
    """Whether the first line begins with the letters of the gold, other text aside."""
    gold = re.findall(settings["pattern"], settings["gold"][0])
    return float(re.findall(settings["pattern"], first_line(answer))[: len(gold)] == gold)


def numbers(answer, settings):
    """Whether the numbers of the answer are those of the gold; of one number, whether it comes first."""
    gold = settings["gold"][0]
    said, want = (re.findall(r"-?\d+", text) for text in (_behind(answer, settings), gold))
    return float((said if gold[0] == "[" else said[:1]) == want)


def one_label(answer, settings):
    """Whether the gold is the only label in the first sentence, words of the question aside."""
    words = lambda text: {word.lower() for word in re.findall(r"\w+", text)}
    said = words(re.split(r"[.!?\n]", answer.strip(), maxsplit=1)[0]) - words(settings["question"])
    return float(said & {label.lower() for label in settings["labels"]} == {settings["gold"][0].lower()})


def reply(answer, settings):
    """The likeness (difflib) of a reply behind its mark, 0 without the mark."""
    mark, _, gold = settings["gold"][0].partition(" ")
    line, limit = first_line(answer), settings["limit"]
    if not line.startswith(mark):
        return 0.0
    return difflib.SequenceMatcher(None, line[len(mark) :].strip()[:limit], gold[:limit]).ratio()


def cited(answer, settings):
    """Half for the value, half for the number of the passage that says it."""
    value = named_in_order(answer, settings["gold"][:1], settings["known"])
    passages = re.findall(r"(?<!\d)\d{6}(?!\d)", answer)
    return (value + (passages[:1] == settings["gold"][1:2])) / 2


def pairs(answer, settings):
    """The F1 of the set of pairs in brackets, whose order does not matter."""
    return set_f1(*(_pairs(text) for text in (answer, " ".join(settings["gold"]))))


def counts_and_ids(answer, settings):
    """The mean of the F1 of counts and of that of ids, which stand in square brackets."""
    said, gold = (_counts_and_ids(text) for text in (answer, " ".join(settings["gold"])))
    return sum(map(set_f1, said, gold)) / 2


def steps(answer, settings):
    """The share of the steps of a journey before the first error."""
    said = re.findall(settings["pattern"], answer.rpartition(settings["prefix"].strip())[2])
    return leading_share([f"{here} to {there} by {by}" for here, there, by in said], settings["gold"])


def rows(answer, settings):
    """The F1 of the set of lines with tabs, the header aside."""
    lines = ["\t".join(cell.strip() for cell in line.split("\t")) for line in answer.splitlines() if "\t" in line]
    return set_f1([line for line in lines if line != settings["header"]], settings["gold"])


def equations(answer, settings):
    """Whether the equations use each number once and end with the target."""
    gold = _equations("\n".join(settings["gold"]))
    said = _equations(answer.rpartition(settings["prefix"].strip())[2])[: len(gold)]
    left = collections.Counter(number for a, _, b, _ in gold for number in (a, b))
    left -= collections.Counter(result for *_, result in gold[:-1])
    for a, operation, b, result in said:
        left.subtract((a, b))
        if min(left.values()) < 0 or not _holds(a, operation, b, result, settings["most"]):
            return 0.0
        left[result] += 1
    return float(len(said) == len(gold) and +left == collections.Counter([gold[-1][3]]))


def _holds(a, operation, b, result, most):
    """Whether an equation of two numbers, the larger first, is right and its result not above the most allowed."""
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b and a % b == 0 else 0}[operation]
    return a >= b and result == value and 0 < value <= most


def _equations(text):
    found = re.findall(r"(?<!\w)(\d{1,5}) ?([-+*/]) ?(\d{1,5}) ?= ?(\d{1,5})(?!\w)", text)
    return [(int(a), operation, int(b), int(result)) for a, operation, b, result in found]


def _pairs(text):
    return {frozenset(pair) for pair in re.findall(r"\(\s*(\w+)\s*,\s*(\w+)\s*\)", text.lower())}


def _counts_and_ids(text):
    counts = re.findall(r"(?<![\w\[])\d+(?![\w\]])", text)
    return set(counts), set(re.findall(r"\[\s*(\w+)\s*\]", text.lower()))


def _behind(answer, settings):
    return after(answer, settings["prefix"]) if "prefix" in settings else answer


def _matches(answer, settings):
    text = _behind(answer, settings)
    return re.findall(settings["pattern"], text.lower() if settings.get("lower") else text)


RULES = {
    "share_of_gold": share_of_gold,
    "whole_gold": whole_gold,
    "gold_alone": gold_alone,
    "gold_first": gold_first,
    "in_order": in_order,
    "integer": integer,
    "close_count": close_count,
    "first_match": first_match,
    "leading_matches": leading_matches,
    "matches": matches,
    "same_matches": same_matches,
    "letters": letters,
    "numbers": numbers,
    "one_label": one_label,
    "reply": reply,
    "cited": cited,
    "pairs": pairs,
    "counts_and_ids": counts_and_ids,
    "steps": steps,
    "rows": rows,
    "equations": equations,
}
