"""Repositories whole, as far as a row takes them: the files of one are one document to the model.

A repository is the first folder of a name below data.path; a document with no folder in its name is one of its own.
Files stand folder by folder, in each the README first; a Python file stands behind those of the repository that it
imports (as in DeepSeek-Coder, Guo et al. 2024, arXiv 2401.14196), and a circle begins with what is met first. A
repository longer than a row fills rows; its rest lies in one row whole, like every shorter one (best_fit). A row may
hold several, and none sees another. Every token's target is the next one of its own file.
"""

import posixpath
import re
from collections.abc import Container, Iterator, Sequence

import numpy as np

from longctx.data.packing import best_fit
from longctx.data.packing.packing import Packing, Text, check, cut, in_rows

# Statements as lines show them: a parser takes seconds for some megabytes, and refuses files of older Pythons.
IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+(?P<module>[\w.]+)[ \t]+import[ \t]*(?P<names>\([^)]*\)|.*)|import[ \t]+(?P<modules>.*))",
    re.MULTILINE,
)
NAME = re.compile(r"([\w.]+)(?:[ \t]+as[ \t]+\w+)?")


def pack(text: Text, capacity: int, rng: np.random.Generator | None = None) -> Packing:
    """Packs the documents of each repository one after another, and repositories as if each were one document.

    Nothing is drawn. Where documents came as tokens, there are no imports, and folders alone say the order.
    """
    lengths = check(text.inputs, capacity)
    order = _repositories(text, len(lengths))
    document = np.array([one for files in order for one in files], np.int64)
    totals = np.array([lengths[files].sum() for files in order], np.int64)
    whole = best_fit.pack(totals, capacity)
    begin = (np.cumsum(totals) - totals)[whole.document] + whole.start
    along = np.argsort(begin)  # pieces of repositories, as their documents are listed
    piece, start, length, part = cut(lengths[document], begin[along])
    group = along[part]
    turn = np.argsort(group, kind="stable")  # groups of a row stand as best_fit has them
    row = np.repeat(np.arange(whole.rows), np.diff(whole.row_start))[group]
    return in_rows(capacity, document[piece][turn], start[turn], length[turn], row[turn], group=group[turn])


def _repositories(text: Text, documents: int) -> list[list[int]]:
    """The documents of each repository, in order."""
    names, texts = list(text.names) or [""] * documents, list(text.texts) or [b""] * documents
    members: dict[str | int, list[int]] = {}
    for document, name in enumerate(names):
        first, inside, _ = name.partition("/")
        members.setdefault(first if inside else document, []).append(document)
    found = []
    for files in members.values():
        order = in_order([names[file] for file in files], [texts[file] for file in files])
        found.append([files[i] for i in order])
    return found


def in_order(names: Sequence[str], texts: Sequence[bytes]) -> list[int]:
    """The order of the files of a repository, as indices."""
    by_path = sorted(range(len(names)), key=lambda i: _place(names[i]))
    python = {_stem(names[i]): i for i in by_path if names[i].endswith(".py")}

    def before(file: int) -> Iterator[int]:
        if names[file].endswith(".py"):
            yield from (python[stem] for stem in imported(names[file], texts[file], python))

    begun, order = set(), []
    for file in by_path:
        waiting = []  # files whose imports are being listed: a chain of them may be longer than calls can be deep
        while waiting or file not in begun:
            if file not in begun:
                begun.add(file)
                waiting.append((file, before(file)))
            at, imports = waiting[-1]
            another = next((one for one in imports if one not in begun), None)
            if another is None:
                order.append(at)
                waiting.pop()
            else:
                file = another
    return order


def imported(name: str, text: bytes, files: Container[str]) -> list[str]:
    """The files that a Python file imports, of those in `files`: paths without .py or /__init__.py.

    An absolute name is looked for in the folder of the file, then in each one around it.
    """
    around, found = [posixpath.dirname(name)], []
    while around[-1]:
        around.append(posixpath.dirname(around[-1]))
    for match in IMPORT.finditer(text):
        dots, targets = _targets(
            {key: (value or b"").decode(errors="replace") for key, value in match.groupdict().items()}
        )
        for target in targets:
            folders = around[dots - 1 : dots] if dots else around
            paths = (posixpath.join(folder, target).rstrip("/") for folder in folders)
            found += [path for path in paths if path in files][:1]
    return found


def _targets(statement: dict[str, str]) -> tuple[int, list[str]]:
    """(dots before the module's name, paths that the statement may mean)."""
    path = lambda dotted: dotted.replace(".", "/")
    if statement["modules"]:
        return 0, [path(one) for one in NAME.findall(statement["modules"])]
    module = statement["module"].lstrip(".")
    within = [posixpath.join(path(module), one) for one in NAME.findall(statement["names"])]
    return len(statement["module"]) - len(module), [path(module), *within]


def _stem(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__")


def _place(name: str) -> tuple[list[str], bool, bool, str]:
    """What files are sorted by where no import says more."""
    *folders, file = name.split("/")
    return folders, not file.lower().startswith("readme"), file != "__init__.py", file
