"""Words that generated texts are made of: our own lists, each word once, none part of another of its list."""

import functools
import itertools
import string
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

ADJECTIVES = tuple(
    "amber ancient bitter brave brisk calm clever cloudy copper crimson curious daring dusty eager early elegant "
    "faint fancy fierce frosty gentle gilded golden graceful grand hasty hidden hollow honest humble icy ivory "
    "jolly keen lively lonely loyal lucky mellow mighty modest narrow nimble noble odd olive pale patient plain "
    "polite proud quick quiet rapid rare restless rough royal rusty scarlet secret sharp shiny silent silver simple "
    "sleepy slender smooth solemn spare steady stern stormy sturdy subtle sudden sunny sweet swift tender timid "
    "tiny tranquil vast vivid wandering warm weary whole wild windy wise witty wooden young zealous".split()
)
NOUNS = tuple(
    "acorn anchor apron quiver attic badge banjo barrel basket beacon bench biscuit blanket bottle bridge bucket "
    "button cabin camel candle canoe carpet castle cedar cellar chisel clock cobbler comet compass coral cradle "
    "crater curtain dagger diary dolphin drum easel ember falcon feather ferry fiddle flask forest fountain fox "
    "garden glacier goblet hammer harbor hazel helmet heron island jacket jewel kettle kitten ladder lagoon lantern "
    "lemon lobster locket lute magnet maple marble meadow mirror monk mountain needle oak oyster paddle palace "
    "parrot pebble pepper pigeon pillow pirate planet pond puzzle quarry quilt rabbit raven ribbon river saddle "
    "sailor shovel sparrow spoon statue summit tailor teapot thimble thistle timber tortoise tower trumpet tulip "
    "tunnel turtle valley velvet violin wagon walnut whistle willow window wizard".split()
)

VERBS = "waited rested stood turned slept leaned wandered lingered settled paused lay knelt".split()
PLACES = "beside behind under above near beyond against before below around".split()
PERSONS = tuple(
    "Abel Ada Agnes Alba Alina Amos Anton Aron Astrid Basil Bea Bela Boris Bruno Carla Cecil Cedric Clara Conrad "
    "Cora Dara Della Dirk Dora Edda Edgar Elias Elsa Emil Enid Esther Ezra Fabian Felix Flora Fritz Gavin Greta "
    "Gustav Hanna Hector Hedda Henrik Hugo Ida Ingrid Irma Isaac Ivo Jana Jasper Joel Jonas Judith Julia Julius "
    "Karin Kaspar Klara Klaus Lars Leander Lena Lina Linus Livia Lorenz Lotte Luis Mabel Magnus Malin Mara "
    "Marius Martha Mathilda Maud Mila Milo Mina Mira Moritz Nadia Nils Nina Nora Octavia Olaf Olga Oskar "
    "Otto Paula Petra Philippa Quentin Ralf Ramona Rasmus Rita Roland Rosa Rufus Samuel Selma Silas Simon Stella "
    "Sven Tessa Theo Tilda Ulrich Ursula Vera Viktor Viola Walter Wanda Xenia Yara Yusuf Yvonne Zelda Zora".split()
)
STEMS = (
    "Alder Ash Bram Brook Cald Dun Elm Fal Gorse Hart Heath Kel Lark Mar Nor Oat Pen Quar Rush Stan Thorn Wren".split()
)
ENDINGS = "bridge brook bury combe den field ford gate ham mere minster mouth port stead ton well wick worth".split()
TOWNS = tuple(stem + ending for stem in STEMS for ending in ENDINGS)
SYLLABLES = tuple(consonant + vowel for consonant in "bdfghklmnprstvz" for vowel in "aeiou")


def keys(rng: np.random.Generator, without: Collection[str] = ()) -> Iterator[str]:
    """Yields "adjective-noun" keys, each once, without end: where all are used up, with one more noun behind."""
    pairs = _pairs()
    for i in rng.permutation(len(pairs)):
        if pairs[i] not in without:
            yield pairs[i]
    for number in itertools.count():  # as many again for each noun, and for each two of them
        behind = "-".join(NOUNS[int(digit)] for digit in _digits(number, len(NOUNS)))
        yield from (f"{pairs[i]}-{behind}" for i in rng.permutation(len(pairs)))


@functools.cache
def _pairs() -> list[str]:
    return [f"{adjective}-{noun}" for adjective in ADJECTIVES for noun in NOUNS]


def _digits(number: int, base: int) -> list[int]:
    return [*(_digits(number // base - 1, base) if number >= base else []), number % base]


def take(stream: Iterator[str], count: int) -> list[str]:
    """The next `count` of a stream."""
    return list(itertools.islice(stream, count))


def prose(rng: np.random.Generator, count: int) -> list[str]:
    """`count` sentences of no consequence, without digits or hyphens."""
    pick = lambda words: [words[i] for i in rng.integers(0, len(words), 2 * count)]
    adjectives, nouns, verbs, places = map(pick, (ADJECTIVES, NOUNS, VERBS, PLACES))
    return [
        f"The {adjectives[2 * i]} {nouns[2 * i]} {verbs[i]} {places[i]} the {adjectives[2 * i + 1]} {nouns[2 * i + 1]}."
        for i in range(count)
    ]


def integers(rng: np.random.Generator, digits: int, without: Collection[str] = ()) -> Iterator[str]:
    """Yields integers of so many digits as text, each once, until half of all there are have come."""
    seen, low = set(without), 10 ** (digits - 1)
    while len(seen) < 4.5 * low:
        text = str(int(rng.integers(low, 10 * low)))
        if text not in seen:
            seen.add(text)
            yield text
    raise ValueError(f"{len(seen)} different integers of {digits} digits are used up; more digits would do.")


def uuids(rng: np.random.Generator) -> Iterator[str]:
    """Yields random UUIDs (version 4) as text, without end."""
    while True:
        yield from many_uuids(rng, 1)


def sentences(rng: np.random.Generator, without: Collection[str] = ()) -> Iterator[str]:
    """Yields sentences like those of prose, each once, without end: the first are the same however many are taken."""
    seen = set(without)
    while True:
        for sentence in prose(rng, 64):
            if sentence not in seen:
                seen.add(sentence)
                yield sentence


def placed(lines: Sequence[str], facts: Iterable[tuple[float, str]]) -> list[str]:
    """The lines with each fact, (depth, text), after that share of them, from 0 to 1; facts in the order of depth.

    Facts of equal depth keep their order.
    """
    found, start = [], 0
    for depth, text in sorted(facts, key=lambda fact: fact[0]):
        end = round(depth * len(lines))
        found += [*lines[start:end], text]
        start = end
    return [*found, *lines[start:]]


def coined(rng: np.random.Generator) -> Iterator[str]:
    """Yields made-up words of three syllables, each once, without end: of four where half of them are used up."""
    return _strung(rng, SYLLABLES, 3)


def codes(rng: np.random.Generator, letters: int) -> Iterator[str]:
    """Yields strings of so many random letters, each once, without end: of one more where half of them are used up."""
    return _strung(rng, tuple(string.ascii_lowercase), letters)


def _strung(rng: np.random.Generator, parts: tuple[str, ...], least: int) -> Iterator[str]:
    for length in itertools.count(least):  # words of one length are never part of one another
        seen: set[str] = set()
        while 2 * len(seen) < len(parts) ** length:
            for row in rng.integers(0, len(parts), (32, length)).tolist():
                word = "".join([parts[i] for i in row])
                if word not in seen:
                    seen.add(word)
                    yield word


def permuted(rng: np.random.Generator, lines: Sequence[str]) -> list[str]:
    """The lines in a random order."""
    return [lines[int(i)] for i in rng.permutation(len(lines))]


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: "a, b and c"."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def picks(rng: np.random.Generator, count: int, *choices: int) -> list[list[int]]:
    """`count` rows of random indices, each below its number of choices; more rows begin with the same ones."""
    return rng.integers(0, choices, (count, len(choices))).tolist()


def many_uuids(rng: np.random.Generator, count: int) -> list[str]:
    """`count` random UUIDs (version 4) as text, drawn at once."""
    octets = rng.integers(0, 256, (count, 16), np.uint8)
    octets[:, 6], octets[:, 8] = octets[:, 6] & 0x0F | 0x40, octets[:, 8] & 0x3F | 0x80
    text = octets.tobytes().hex()
    parts = ((at, at + 8, at + 12, at + 16, at + 20, at + 32) for at in range(0, 32 * count, 32))
    return ["-".join((text[a:b], text[b:c], text[c:d], text[d:e], text[e:f])) for a, b, c, d, e, f in parts]
