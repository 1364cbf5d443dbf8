"""Measures of the house that tests/test_house.py holds: imports, lengths of functions, docstrings that are missing.

What is still owed is in tests/house_debts.json and may only shrink; after a change that pays some of it

    python -m tests.house

writes the smaller numbers, and the stub of the face (longctx/__init__.pyi) as its table says.
"""

import ast
import collections
import functools
import importlib
import inspect
import json
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
DEBTS = ROOT / "tests" / "house_debts.json"
STUB = ROOT / "longctx" / "__init__.pyi"
FLOORS = ("pallas_kernels", "longctx", "experiments")  # an import goes to the same floor or to one before it
MOST_LINES, MOST_ARGUMENTS, MOST_FILE = 40, 8, 500
# files whose functions are bodies of kernels, or take their operands
KERNELS = re.compile(r"pallas_kernels/\w+/(tpu|mosaic_gpu|triton)/\w+\.py")
# the face's call: all settings of one attention, by keyword
BY_KEYWORD = "longctx/context_parallel/api.py:attention"
# what a docstring may not begin with: it points at something outside of it
OPENERS = re.compile(r"(The same|Those|That|As|Of|So many|Ditto)\b(?! many as)")

Debts = dict[str, int]


class Arrow(NamedTuple):
    """One import: the module that has it, and the module or package that is imported, by dotted names."""

    source: str
    target: str


def files(root: pathlib.Path, *folders: str) -> Iterator[pathlib.Path]:
    """The Python files below the named folders of `root`, relative to it."""
    for folder in folders or FLOORS:
        yield from (path.relative_to(root) for path in sorted((root / folder).rglob("*.py")))


def module(path: pathlib.Path) -> str:
    """The dotted name of the module in a file."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows(root: pathlib.Path = ROOT) -> set[Arrow]:
    """Every import between modules of the three floors, those inside of functions among them."""
    return {
        Arrow(module(path), target)
        for path in files(root)
        for node in ast.walk(parsed(root / path))
        for target in _targets(node, root)
        if target.split(".")[0] in FLOORS and target != module(path)
    }


def _targets(node: ast.AST, root: pathlib.Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0, f"a relative import: {ast.unparse(node)}"
    inside = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if _is_module(root, name) else str(node.module) for name in inside]


def _is_module(root: pathlib.Path, name: str) -> bool:
    path = root.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@functools.cache
def parsed(path: pathlib.Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


def upward(imports: set[Arrow]) -> set[Arrow]:
    """Imports that go up, from a floor to one above it, and imports of the face from inside of the library."""
    floor = lambda name: FLOORS.index(name.split(".")[0])
    inside = lambda arrow: arrow.target == "longctx" and arrow.source.startswith("longctx.")
    return {arrow for arrow in imports if floor(arrow.target) > floor(arrow.source) or inside(arrow)}


def room(name: str) -> str:
    """The room of a module: the folder, or the file where none is around it, directly below a floor."""
    return ".".join(name.split(".")[:2])


def circles(imports: set[Arrow], room=room) -> list[list[str]]:
    """Groups of rooms that import one another, directly or in a round, each in alphabetical order.

    room: name of a module -> name of its room; `str` makes every module its own.
    """
    below = collections.defaultdict(set)
    for arrow in imports:
        if room(arrow.source) != room(arrow.target):
            below[room(arrow.source)].add(room(arrow.target))
    reach = {start: _reached(below, start) for start in list(below)}
    around = {start for start in reach if start in reach[start]}
    groups = {tuple(sorted(x for x in around if x in reach[start] and start in reach[x])) for start in around}
    return sorted(map(list, groups))


def _reached(below: dict[str, set[str]], start: str) -> set[str]:
    seen, waiting = set(), [start]
    while waiting:
        new = below[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


def long_files(root: pathlib.Path = ROOT) -> Debts:
    """Lines of the files, tests among them, that are longer than MOST_FILE."""
    lengths = {
        str(path): len((root / path).read_text().splitlines()) for path in files(root, *FLOORS, "configs", "tests")
    }
    return {path: lines for path, lines in lengths.items() if lines > MOST_FILE}


def functions(root: pathlib.Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """("path:name", definition) of every function that is neither in a file of KERNELS nor called main."""
    for path in files(root):
        if not KERNELS.fullmatch(path.as_posix()):
            for node in ast.walk(parsed(root / path)):
                if isinstance(node, ast.FunctionDef) and node.name != "main":
                    yield f"{path.as_posix()}:{node.name}", node


def long_functions(root: pathlib.Path = ROOT) -> Debts:
    """Lines of the functions that have more than MOST_LINES, docstrings not counted."""
    lengths = {name: _lines(node) for name, node in functions(root)}
    return {name: lines for name, lines in lengths.items() if lines > MOST_LINES}


def _lines(node: ast.FunctionDef) -> int:
    whole = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is None:
        return whole
    return whole - (node.body[0].end_lineno - node.body[0].lineno + 1)


def many_arguments(root: pathlib.Path = ROOT) -> Debts:
    """Numbers of arguments of the functions that take more than MOST_ARGUMENTS, self and cls not counted."""
    counts = {}
    for name, node in functions(root):
        listed = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        rest = [x for x in (node.args.vararg, node.args.kwarg) if x]
        counts[name] = len([x for x in listed + rest if x.arg not in ("self", "cls")])
    return {name: count for name, count in counts.items() if count > MOST_ARGUMENTS and name != BY_KEYWORD}


def registries(root: pathlib.Path) -> Iterator[tuple[str, str, ast.Dict]]:
    """(path, name, dict literal) of every dict literal that a module assigns to a name in capitals."""
    for path in files(root):
        for node in parsed(root / path).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(target, ast.Name) and target.id.isupper() and isinstance(node.value, ast.Dict):
                yield path.as_posix(), target.id, node.value


def lambdas(root: pathlib.Path = ROOT) -> Debts:
    """Numbers of lambdas among the values of each registry that has some."""
    counts = {
        f"{path}:{name}": sum(isinstance(value, ast.Lambda) for value in node.values)
        for path, name, node in registries(root)
    }
    return {name: count for name, count in counts.items() if count}


def undocumented_entries(root: pathlib.Path = ROOT) -> Debts:
    """Entries without a complete docstring of their own, by registry: of the face's, and of all whose values are
    functions, classes or modules of the house."""
    import longctx
    from longctx.catalogue import document

    found = {f"longctx:{name}": getattr(longctx, name) for name in longctx.REGISTRIES}
    for path, name, _ in registries(root):
        if not path.startswith("experiments"):
            entries = getattr(importlib.import_module(module(pathlib.Path(path))), name)
            if all(_is_ours(entry) for entry in entries.values()):
                found[f"{path}:{name}"] = entries
    counts = {name: sum(not complete(document(x)) for x in entries.values()) for name, entries in found.items()}
    return {name: count for name, count in counts.items() if count}


def _is_ours(entry) -> bool:
    named = inspect.isfunction(entry) or inspect.isclass(entry)
    return inspect.ismodule(entry) or named and entry.__module__.split(".")[0] in FLOORS


def complete(docstring: str) -> bool:
    """Whether a docstring begins with a sentence or a noun phrase that ends, and points at nothing outside of it."""
    paragraph = docstring.split("\n\n")[0].strip()
    begins = re.match(r"[A-Z0-9`\"'(]|\w+[-(_\[]", paragraph)  # a capital, or a term of code
    return bool(begins) and paragraph[-1] in ".:" and not OPENERS.match(docstring)


def openers(root: pathlib.Path = ROOT) -> Debts:
    """Docstrings, by file, that begin with a pronoun or a comparison to something outside of them."""
    counts = collections.Counter()
    kinds = ast.FunctionDef | ast.ClassDef | ast.Module
    for path in files(root):
        texts = (ast.get_docstring(node) for node in ast.walk(parsed(root / path)) if isinstance(node, kinds))
        counts[path.as_posix()] = sum(bool(text and OPENERS.match(text)) for text in texts)
    return {path: count for path, count in counts.items() if count}


MEASURES = {
    "long_files": long_files,
    "long_functions": long_functions,
    "many_arguments": many_arguments,
    "lambdas": lambdas,
    "undocumented_entries": undocumented_entries,
    "openers": openers,
}


def debts() -> dict[str, Debts]:
    """What is still owed, by measure."""
    return json.loads(DEBTS.read_text())


def grown(measured: Debts, owed: Debts) -> Debts:
    """The part of what was measured that is above what is owed."""
    return {name: value for name, value in measured.items() if value > owed.get(name, 0)}


def paid(measured: Debts, owed: Debts) -> Debts:
    """The part of what is owed that is more than what was measured."""
    return {name: value for name, value in owed.items() if value > measured.get(name, 0)}


def stub() -> str:
    """What longctx/__init__.pyi must say, so that type checkers and editors know the face's lazy names."""
    import longctx

    imports = {_stub_line(name, target) for name, target in longctx.NAMES.items()}
    imports |= {"from longctx.catalogue import Catalogue"}
    names = [f"    {json.dumps(name)}," for name in longctx.__all__]
    tables = ["NAMES: dict[str, str]", "REGISTRIES: dict[str, str]"]
    registries = [f"{name}: Catalogue" for name in longctx.REGISTRIES]
    head = "# The types of the names in __init__.py; `python -m tests.house` writes this file."
    return "\n".join([head, *sorted(imports), "", *tables, *registries, "__all__ = [", *names, "]", ""])


def _stub_line(name: str, target: str) -> str:
    where, _, attribute = target.partition(":")
    if not attribute:
        where, _, attribute = where.rpartition(".")
    return f"from {where} import {attribute} as {name}"


def main():
    """Write the stub, and the debts where they shrank."""
    STUB.write_text(stub())
    left = {}
    for name, measure in MEASURES.items():
        measured, owed = measure(), debts().get(name, {})
        left[name] = {key: min(value, measured[key]) for key, value in owed.items() if key in measured}
        for key, value in grown(measured, owed).items():
            print(f"{name}: {key} is {value}, and {owed.get(key, 0)} is owed at most")
    DEBTS.write_text(json.dumps(left, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
