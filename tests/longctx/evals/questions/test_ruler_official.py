"""RULER's own tasks beside the numbers of the public generator."""

import importlib.util
import json
import re
from collections import Counter

import numpy as np
import pytest

from longctx.config import EvalConfig
from longctx.errors import UserError
from longctx.evals import api
from longctx.evals.questions import fit, ruler_words
from longctx.evals.questions import ruler_templates as say
from longctx.evals.questions.api import QUESTIONS, SUITES, configured
from longctx.evals.questions.ruler_official import RulerCommonWords, RulerNeedles, RulerVariables
from tests.helpers import slow


class FourBytes:
    """A tokenizer whose tokens are four bytes, as the one that the numbers of PUBLISHED were made with."""

    def encode(self, text: bytes) -> bytes:
        return text[::4]


# The largest of 60 samples that the generator of NVIDIA/RULER at c3f5e3b makes of 4,096 such tokens with the seed 42,
# with generated prose for essays. (Samples that were too long at first lose 500 words, 25 needles or 10 words there.)
PUBLISHED = {
    "ruler_niah_single_1": dict(words=3326, noise=172, needles=1),
    "ruler_niah_single_2": dict(words=2584, needles=1),
    "ruler_niah_multikey_1": dict(words=2582, needles=4),
    "ruler_niah_multikey_2": dict(words=2400, needles=235),
    "ruler_niah_multikey_3": dict(words=1408, needles=136),
    "ruler_niah_multivalue": dict(words=2580, needles=4),
    "ruler_niah_multiquery": dict(words=2568, needles=4),
    "ruler_vt": dict(words=3398, noise=171, variables=10),  # of noise 154 lines, and 17 of the example
    "ruler_cwe": dict(words=2505, items=1189, often=30, seldom=3),
    "ruler_fwe": dict(words=3066, dots=1865, second=466, third=207, fourth=116),
}
TOKENS = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50}  # tokens_to_generate of its constants.py


def counted(prompt: str) -> dict[str, int]:
    """The measures of PUBLISHED."""
    coded = Counter(prompt.partition("coded words. ")[2].partition("\nQuestion")[0].split()).most_common(4)
    items = Counter(
        re.split(r" ?\d+\. ", prompt.rpartition("Below is")[2].partition("\nQuestion")[0].partition("\n")[2])
    )
    times = [count for _, count in items.most_common(12) if count > 1]
    return {
        "words": len(prompt.split()),
        "noise": prompt.count("The grass is green."),
        "needles": prompt.count("One of the special magic "),
        "variables": len(re.findall(r"^VAR ", prompt, re.MULTILINE)),
        "items": len(re.findall(r"\d+\. ", prompt.partition("\nQuestion")[0] + prompt.rpartition("Below")[2])),
        "often": max(times, default=0),
        "seldom": min(times, default=0),
        **dict(zip(("dots", "second", "third", "fourth"), (count for _, count in coded), strict=False)),
    }


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("samples", [4, *slow(40)])
def test_texts_are_as_large_as_those_of_the_public_generator(name, samples):
    task = QUESTIONS[name]
    found = [fit.fitted(task, name, FourBytes(), 4096, 0, i) for i in range(samples)]
    counts = [counted(one.sample.prompt(one.sample.queries[0])) for one in found]
    for measure, published in PUBLISHED[name].items():
        assert np.mean([count[measure] for count in counts]) == pytest.approx(published, rel=0.03), measure
    assert all(4000 <= one.tokens + task.budget <= 4096 for one in found)
    assert task.budget == TOKENS[name.removeprefix("ruler_").partition("_")[0]]


def test_the_prompt_for_one_value_is_what_the_generator_makes_of_that_for_several():
    several, single = ("|".join(template[:3]) for template in (say.SEVERAL, say.SINGLE))
    assert several.replace("Some", "A").replace("are all", "is").replace("are", "is") == single
    assert say.DEPTHS == tuple(np.round(np.linspace(0, 100, 40)).astype(int).tolist())


def test_prompts_word_for_word():
    query = lambda name: fit.drawn(QUESTIONS[name], name, 0, 0, 50).queries[0]
    key = re.findall(r"for (.*) mentioned", query("ruler_niah_single_1").question)[0]
    assert query("ruler_niah_single_1")[:2] == (
        f"\nWhat is the special magic number for {key} mentioned in the provided text?",
        f" The special magic number for {key} mentioned in the provided text is",
    )
    assert re.search(r"numbers for [^,]+, [^,]+, [^,]+, and [^,]+ ment", query("ruler_niah_multiquery").question)
    variables = query("ruler_vt")
    value = re.findall(r"\d+", variables.question)[0]
    assert variables.prefix == (
        " Answer: According to the chain(s) of variable assignment in the text above, 5 variables are assigned the "
        f"value {value}, they are:"
    )


@pytest.mark.parametrize("name", [name for name in SUITES["ruler_official"] if "niah" in name])
def test_places_are_even_over_the_text(name):
    """The mean place of the needles, within four standard errors of the middle of an even distribution."""
    task, places = QUESTIONS[name], []
    for index in range(100):
        sample = fit.drawn(task, name, 1, index, max(100, 20 * task.smallest))
        text = sample.context.partition("\n")[2]
        places += [text.index(gold) / len(text) for gold in sample.queries[0].gold]
        if sample.queries[0].depth is not None:
            assert abs(places[-1] - sample.queries[0].depth) < 0.08
    assert abs(np.mean(places) - 0.5) < 4 / np.sqrt(12 * len(places)) and min(places) < 0.1 and max(places) > 0.9


def test_assignments_follow_an_example_of_shorter_names():
    for index in range(10):
        context, (query,), _ = fit.drawn(QUESTIONS["ruler_vt"], "ruler_vt", 0, index, 9)
        example, text = context.split("\n\nMemorize")
        names = re.findall(r"^VAR (\w+) = (?:VAR (\w+) |\d{5})$", text, re.MULTILINE)
        assert [name for name, _ in names] == list(query.gold) and {len(name) for name in query.gold} == {5}
        assert [before for _, before in names] == ["", *query.gold[:-1]]
        told = re.findall(r"^VAR ([A-Z]{3}) = ", example, re.MULTILINE)
        assert len(told) == 5 and example.endswith(f" they are:  {' '.join(told)}")
        assert text.count("The grass") == 9 and text.endswith("There and back again.")


def test_lists_begin_with_an_example_of_forty_words():
    context, (query,), _ = fit.drawn(QUESTIONS["ruler_cwe"], "ruler_cwe", 0, 0, 9_000)
    example, _, text = context.partition("\nBelow is")
    first, answer = example.split("are: ")
    counts = Counter(re.split(r" ?\d+\. ", first.split("\n")[1])[1:])
    assert sorted(counts.values()) == [3] * 30 + [10] * 10
    assert {word for word, count in counts.items() if count == 10} == set(re.split(r" ?\d+\. ", answer)[1:])
    counts = Counter(re.split(r" ?\d+\. ", text.partition("\n")[2])[1:])
    assert {word for word, count in counts.items() if count == 30} == set(query.gold) and len(counts) == 9_010
    assert Counter(counts.values()) == {30: 10, 3: 9_000}  # more than the package has words


def test_keys_of_version_2_have_four_values_each():
    sample = fit.drawn(QUESTIONS["ruler2_mv_niah_basic"], "ruler2_mv_niah_basic", 0, 0, 40)
    found = re.findall(r"magic numbers for (.+) is: (\d{10})\.", sample.context)
    assert Counter(Counter(key for key, _ in found).values()) == {4: 11}
    assert len(set(dict(map(reversed, found)))) == 44 and "memorize them" in sample.context
    task = QUESTIONS["ruler2_mk_niah_basic"]
    (query,) = fit.drawn(task, "ruler2_mk_niah_basic", 0, 0, 40).queries
    assert {len(value) for value in query.candidates} == {10}


def test_essays_are_read_from_a_folder(tmp_path):
    (tmp_path / "b.txt").write_text("Two  is\nhere. And more!")
    (tmp_path / "a.json").write_text(json.dumps({"text": "One was. first"}))
    config = EvalConfig(essays=str(tmp_path), questions=("ruler_niah_multivalue",))
    api.check(config)
    assert ruler_words.essays(config.essays) == tuple("One was. first Two is here. And more!".split())
    task = configured("ruler_niah_multivalue", config)
    sample = fit.drawn(task, "x", 0, 0, 20)
    without = re.sub(r" *One of the special magic numbers for .+? is: \d+\.", "", sample.context.split("\n")[1])
    assert " ".join(without.split()) == "One was. first Two is here. And more! " * 2 + "One was. first Two"
    assert task.solve(sample.prompt(sample.queries[0])) and "essays" in task.what


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"eval.essays='.*' holds no text"):
        api.check(EvalConfig(essays=str(tmp_path)))
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(UserError, match='no object with a "text"'):
        api.check(EvalConfig(essays=str(tmp_path)))
    with pytest.raises(UserError, match="eval.shots=-1"):
        api.check(EvalConfig(shots=-1))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ruler_words.listed.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'longctx\[ruler\]'"):
        fit.drawn(QUESTIONS["ruler_cwe"], "ruler_cwe", 0, 0, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RulerNeedles(asked=2),
        lambda: RulerNeedles(haystack="prose"),
        lambda: RulerNeedles(keys=41),
        lambda: RulerVariables(hops=0),
        lambda: RulerCommonWords(seldom=30),
        lambda: RulerCommonWords(example=(9, 2, 1)),
    ],
)
def test_parameters_that_have_no_answer_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_facts_go_before_different_lines():
    for shares in ([0.0, 0.0, 0.0], [0.99, 0.5, 0.0], [0.99, 0.99, 0.99]):
        found = ruler_words.inserted(["a", "b", "c", "d"], np.array(shares), ["1", "2", "3"])
        assert [item for item in found if item.isalpha()] == ["a", "b", "c", "d"] and found[-1] == "d"
        assert not re.search(r"\d\d", "".join(found))
