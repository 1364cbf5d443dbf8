"""Laws of single tasks that ask: associations without words in common, and brute force beside the solvers."""

import difflib
import html.parser
import re

import numpy as np
import pytest

from longctx.evals.questions import beliefs, best_answer, fit, latent, mrcr, scores, words
from longctx.evals.questions.api import QUESTIONS
from longctx.evals.questions.question import Query

STOP = set("a an the of in is it to which how that something".split())


def drawn(name: str, count: int = 20):
    """Samples of some sizes."""
    task = QUESTIONS[name]
    return [fit.drawn(task, name, 5, i, task.smallest + 3 * i) for i in range(count)]


def stems(text: str) -> set[str]:
    """The first four letters of the words that say something."""
    return {word[:4] for word in re.findall(r"\w+", text.lower()) if word not in STOP}


@pytest.mark.parametrize("kind", latent.FACTS)
@pytest.mark.parametrize("inverted", [False, True])
def test_no_word_of_an_association_is_in_its_question(kind, inverted):
    steps = next(steps for steps, kinds in latent.STEPS.items() if kind in kinds)
    task, facts = latent.Latent(steps, inverted), latent.FACTS[kind]
    told = set().union(*(stems(task.told(fact, "")) for fact in facts))
    for fact in facts:
        assert not stems(latent.asked(fact)) & told
    for column in ([fact.thing for fact in facts], [fact.meant for fact in facts]):
        assert len(set(column)) == len(column) >= latent.CHARACTERS


def test_associations_are_many_and_persons_are_no_words_of_them():
    assert sum(map(len, latent.FACTS.values())) >= 90
    assert len(set(words.PERSONS)) == len(words.PERSONS)
    said = " ".join(fact.thing + " " + latent.asked(fact) for facts in latent.FACTS.values() for fact in facts)
    assert not set(words.PERSONS) & set(re.findall(r"\w+", said))


def test_every_offer_but_one_misses_exactly_one_wish():
    for sample in drawn("best_answer"):
        wishes = sample.queries[0].question.partition("wishes: ")[2].partition(". Which")[0].split("; ")
        met = {}
        for line in sample.context.splitlines()[1:]:
            name, _, said = line.removeprefix("Offer ").partition(": ")
            met[name] = sum(meets(wish, said) for wish in wishes)
        assert [name for name, count in met.items() if count == len(wishes)] == [sample.queries[0].gold[0]]
        assert sorted(met.values())[:-1] == [len(wishes) - 1] * (len(met) - 1)


def meets(wish: str, said: str) -> bool:
    """Whether an offer meets a wish, by the words of both alone."""
    bound = re.fullmatch(r"at (least|most) (\d+) (\w+).*", wish)
    if bound:
        value = int(re.findall(rf"(\d+) {'steps' if bound[3] == 'steps' else bound[3]}", said)[0])
        return value >= int(bound[2]) if bound[1] == "least" else value <= int(bound[2])
    point = next(point for point in best_answer.POINTS if re.fullmatch(point.wish.format(".+"), wish))
    value = re.fullmatch(point.wish.format("(.+)"), wish)[1]
    return point.said.format(value) in said


def test_beliefs_follow_from_who_is_inside():
    for sample in drawn("beliefs"):
        inside, seen, thing = set(), {}, re.findall(r"is the (.+) at the end", sample.queries[-1].question)[0]
        for line in sample.context.splitlines()[1:]:
            person = line.split()[0]
            if "comes" in line or "leaves" in line:
                assert (person in inside) == ("leaves" in line)
                inside ^= {person}
            else:
                assert person in inside
                if f" the {thing} into" in line:
                    seen |= dict.fromkeys([*inside, "truth"], line.split()[-2])
        asked = [re.findall(r"does (\w+) believe", query.question) for query in sample.queries]
        assert [query.gold[0] for query in sample.queries] == [seen[(names or ["truth"])[0]] for names in asked]
        assert sample.queries[0].gold != sample.queries[-1].gold  # the first person is wrong
    assert not set(beliefs.BOXES) & set(words.ADJECTIVES) and len(set(beliefs.BOXES)) == len(beliefs.BOXES)


class Cells(html.parser.HTMLParser):
    """The rows of a page's tables by caption."""

    def __init__(self):
        super().__init__()
        self.tables, self.open = {}, ""

    def handle_starttag(self, tag, attrs):
        self.open = tag if tag in ("caption", "td", "th", "tr") else self.open
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        self.open = "" if tag in ("caption", "td", "th", "tr") else self.open

    def handle_data(self, data):
        if self.open == "caption":
            self.rows = self.tables[data] = []
        elif self.open in ("td", "th"):
            self.rows[-1].append(data)


def test_tables_are_what_a_parser_reads():
    for sample in drawn("html_tsv"):
        cells = Cells()
        cells.feed(sample.context)
        query = sample.queries[0]
        head, *rows = cells.tables[re.findall(r"table (\S+) as", query.question)[0]]
        at = [head.index(name) for name in query.prefix.strip().split("\t")]
        assert query.gold == tuple("\t".join(row[i] for i in at) for row in rows) and len(set(query.gold)) == 12
        assert len(cells.tables) == len(set(cells.tables)) == sample.context.count("<table>")
        task = QUESTIONS["html_tsv"]
        assert task.score("\n".join(query.gold[:6]), query) == pytest.approx(12 / 18)
        assert task.score("\n".join(["x\ty", *reversed(query.gold)]), query) == pytest.approx(24 / 25)


def test_replies_are_scored_behind_their_mark():
    task, query = mrcr.Mrcr(), Query("", "", ("Ab3 a reply of words",))
    assert task.score(" a reply of words", query) == 0 == task.score("So: Ab3 a reply of words", query)
    assert task.score("\nAb3 a reply of words\nUser: more", query) == 1
    ratio = difflib.SequenceMatcher(None, "a reply", "a reply of words").ratio()
    assert task.score("Ab3 a reply", query) == ratio < 1
    floors = [np.mean([QUESTIONS[f"mrcr_{n}"].chance(s.queries[0]) for s in drawn(f"mrcr_{n}")]) for n in (2, 4, 8)]
    assert floors[0] > floors[1] > floors[2] and all(n * floor > 1 for n, floor in zip((2, 4, 8), floors, strict=True))
    assert (len(mrcr.FORMS), len(mrcr.TOPICS), len(mrcr.STYLES)) == (7, 7, 5)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("It is Red-Oak.", 1),
        (" red-oak", 1),
        ("red-oak or tan-fox", 0),
        ("red-oak-elm", 0),
        ("tan-red-oak", 0),
        ("", 0),
    ],
)
def test_an_answer_holds_the_right_candidate_and_no_other(answer, score):
    assert scores.only_held(answer, ("red-oak", "tan-fox")) == score


def test_prose_goes_on_as_it_began_and_facts_keep_their_order():
    take = lambda count: words.take(words.sentences(np.random.default_rng(0)), count)
    assert take(200)[:50] == take(50) and len(set(take(200))) == 200
    first = take(3)[0]
    assert first not in words.take(words.sentences(np.random.default_rng(0), [first]), 100)
    assert words.placed(["a", "b"], [(0.5, "2"), (0.5, "1"), (0.0, "3")]) == ["3", "a", "2", "1", "b"]
    assert words.placed([], [(0.9, "2"), (0.1, "1")]) == ["1", "2"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: mrcr.Mrcr(replies=1),
        lambda: beliefs.Beliefs(persons=1),
        lambda: best_answer.BestAnswer(wishes=11),
        lambda: latent.Latent(steps=3),
        lambda: type(QUESTIONS["sort"])(segments=7),
        lambda: type(QUESTIONS["idk"])(keys=0),
        lambda: type(QUESTIONS["html_tsv"])(columns=1),
    ],
)
def test_what_cannot_be_asked_is_refused(make):
    with pytest.raises(ValueError, match=r" not | few"):
        make()
