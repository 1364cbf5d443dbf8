"""Excerpts of the source in pages. A line such as

    ::code longctx/data/rows.py PackedRows.gather from "packing, rows =" to "place ="

becomes that part of that function or class, as it is in the file. `from` and `to` name lines by a text in them and may
be left out; a path alone is the whole file. What is not there is an error, so that no page shows code that has gone. A
hook of mkdocs (mkdocs.yml).
"""

import ast
import pathlib
import re
import shlex
import textwrap

ROOT = pathlib.Path(__file__).parents[1]
DIRECTIVE = re.compile(r"^::code (.+)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_) -> str:
    """The page with its excerpts; mkdocs calls it."""
    return DIRECTIVE.sub(lambda match: fenced(match[1]), markdown)


def fenced(arguments: str) -> str:
    """A code block with the excerpt that the rest of a ::code line names."""
    path, *rest = shlex.split(arguments)
    if not rest:
        return f'```python title="{path}"\n{(ROOT / path).read_text().rstrip()}\n```'
    symbol, *ends = rest
    ends = dict(zip(ends[::2], ends[1::2], strict=True))
    return f'```python title="{path}"\n{excerpt(path, symbol, ends.get("from"), ends.get("to"))}\n```'


def excerpt(path: str, symbol: str, start: str | None = None, end: str | None = None) -> str:
    """The lines of `symbol` ("Class.method", "function.inner", "NAME") in a file below ROOT, from one to another.

    start: a text that one line of the symbol holds, no other; default: its first line. end: a text in a line from there
    on; default: its last line. Raises LookupError for a symbol or a text that is not there.
    """
    source = (ROOT / path).read_text()
    node = _node(ast.parse(source), path, symbol)
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    lines = source.splitlines()[first - 1 : node.end_lineno]
    if start is not None:
        places = [i for i, line in enumerate(lines) if start in line]
        if len(places) != 1:
            raise LookupError(f"{path} {symbol}: {len(places)} lines hold {start!r}, and one must.")
        lines = lines[places[0] :]
    if end is not None:
        last = next((i for i, line in enumerate(lines) if end in line), None)
        if last is None:
            raise LookupError(f"{path} {symbol}: no line holds {end!r}.")
        lines = lines[: last + 1]
    return textwrap.dedent("\n".join(lines)).rstrip()


def _node(tree: ast.Module, path: str, symbol: str) -> ast.stmt:
    node = tree
    for name in symbol.split("."):
        nodes = [child for child in ast.walk(node) if name in _names(child) and child is not node]
        if not nodes:
            raise LookupError(f"{path} has no {symbol}.")
        node = nodes[0]
    return node


def _names(node: ast.AST) -> list[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
