"""The people of the tasks on biographies (bios.py), of no world, with attributes from our own lists."""

import re
from collections.abc import Iterator

import numpy as np

from longctx.evals.questions import words

FAMILY = tuple(
    "Abbott Aldous Anders Ashdown Barlow Beckett Bellamy Birch Blackwood Bowen Bramble Briggs Burdock Calloway Carver "
    "Chadwick Colby Crane Crowther Dalton Darrow Denholm Draper Dunmore Eastman Ellery Elwood Fairfax Farrow Fenwick "
    "Finch Fletcher Fulton Garrick Gifford Goddard Grantham Hadley Halloran Harker Hawthorn Hendry Holloway Hurst "
    "Ingram Jarvis Jessop Keating Kendrick Kirby Lambert Langley Larkin Lockwood Lovell Marlow Mercer Merritt Mortimer "
    "Nash Norwood Oakley Ogden Orwin Osgood Paget Parrish Pemberton Penrose Pickett Prescott Quick Radford Redfern "
    "Rowntree Rutledge Sackville Sanborn Selby Sheldon Sinclair Stroud Tanner Tarrant Thorne Tobin Trask Upton Vance "
    "Vickers Wadsworth Wakefield Walcott Weldon Whitlock Winslow Wyatt Yardley Yates".split()
)
TRADES = tuple(
    "accountancy acting baking banking barbering beekeeping bookbinding brewing bricklaying butchery carpentry "
    "carting catering cobbling coopery dairying dentistry dyeing engraving ferrying fishing forestry gilding "
    "glazing hatmaking joinery journalism locksmithing masonry midwifery milling mining nursing optometry "
    "pharmacy piloting plastering plumbing policing printing roofing saddlery sailmaking shipbuilding "
    "shoemaking silversmithing smelting surveying tailoring tanning teaching thatching tiling translating "
    "upholstery watchmaking welding woodcutting".split()
)
HOBBIES = tuple(
    "acrobatics archery badminton ballet basketry billiards birdwatching bowling boxing calligraphy camping canoeing "
    "caving chess crocheting curling cycling dancing darts dominoes embroidery falconry fencing gardening gliding golf "
    "gymnastics hiking hockey juggling karate kayaking knitting macrame marquetry mountaineering origami "
    "painting photography pottery puppetry quilting rowing rugby sailing sculpting singing skating skiing snorkelling "
    "squash surfing swimming tennis volleyball weightlifting whittling wrestling yodelling yoga".split()
)
SUBJECTS = tuple(
    "acoustics agronomy algebra anatomy anthropology archaeology astronomy biology botany chemistry cosmology "
    "cryptography dialectology ecology economics entomology epidemiology ethics forensics genetics geography geology "
    "geometry glaciology grammar heraldry history hydrology immunology jurisprudence law linguistics logic "
    "mathematics mechanics metallurgy meteorology mineralogy musicology mycology neurology oceanography optics "
    "ornithology palaeontology pathology philosophy phonetics physics physiology poetics politics psychology rhetoric "
    "seismology sociology statistics theology topology zoology".split()
)
VALUES: dict[str, tuple[str, ...]] = {
    "year": tuple(map(str, range(1900, 2000))),
    "town": words.TOWNS,
    "trade": TRADES,
    "hobby": HOBBIES,
    "subject": SUBJECTS,
}
BIOGRAPHY = (
    "Passage {passage}: {name} was born in the year {year} in the town of {town}. {name} studied {subject}. "
    "The trade of {name} is {trade}, and {teacher} taught it. The hobby of {name} is {hobby}."
)
_PARSED = re.compile(
    r"^Passage (?P<passage>\d+): (?P<name>.+?) was born in the year (?P<year>\d+) in the town of (?P<town>\w+)\..+?"
    r" studied (?P<subject>\w+)\. .+? is (?P<trade>\w+), and (?P<teacher>.+?) taught it\. .+? is (?P<hobby>\w+)\.$",
    re.MULTILINE,
)
Person = dict[str, str]  # by the fields of BIOGRAPHY


def names(rng: np.random.Generator, without: list[str]) -> Iterator[str]:
    """Yields names of three words, each once and none of `without`, until half of all there are have come."""
    seen = set(without)
    while len(seen) < len(words.PERSONS) ** 2 * len(FAMILY) / 2:
        for i, j, k in words.picks(rng, 64, len(words.PERSONS), len(words.PERSONS), len(FAMILY)):
            name = f"{words.PERSONS[i]} {words.PERSONS[j]} {FAMILY[k]}"
            if name not in seen:
                seen.add(name)
                yield name
    raise ValueError(f"{len(seen)} names are used up.")


def different(rng: np.random.Generator, count: int) -> list[Person]:
    """People who share no value. The teacher of each is the next of them, of the last the first."""
    called = words.take(names(rng, []), count)
    drawn = {field: [values[i] for i in rng.permutation(len(values))[:count]] for field, values in VALUES.items()}
    drawn |= {"passage": words.take(words.integers(rng, 6), count), "name": called, "teacher": called[1:] + called[:1]}
    return [{field: values[i] for field, values in drawn.items()} for i in range(count)]


def others(rng: np.random.Generator, count: int, known: list[Person]) -> list[Person]:
    """People with names and passages that are not those of the known; one more leaves those before as they are."""
    named, numbered, valued = rng.spawn(3)
    called = [person["name"] for person in known]
    called += words.take(names(named, called), count)
    passages = words.take(words.integers(numbered, 6, {person["passage"] for person in known}), count)
    found, shares = [], valued.random((count, len(VALUES) + 1)).tolist()
    for at, (passage, (of_teacher, *of_values)) in enumerate(zip(passages, shares, strict=True), len(known)):
        person = {"passage": passage, "name": called[at], "teacher": called[int(of_teacher * at)]}
        for (field, values), share in zip(VALUES.items(), of_values, strict=True):
            person[field] = values[int(share * len(values))]
        found.append(person)
    return found


def biography(person: Person) -> str:
    """A line of text."""
    return BIOGRAPHY.format_map(person)


def read(text: str) -> dict[str, Person]:
    """The people of a text of biographies, by name."""
    return {found["name"]: found.groupdict() for found in _PARSED.finditer(text)}
