"""Tables of a web page as tab-separated values."""

import dataclasses
import html
import re
from collections.abc import Iterator

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import Query, Sample

TASK = "Below is the source of a web page with tables. One of them is to be written as tab-separated values.\n"
QUESTION = (
    "\nWrite the rows of the table {caption} as tab-separated values, a line each, with the columns {columns} in this "
    "order, without markup."
)
COLUMNS = ("item", "owners", "price", "year", "shelf", "state")
STATES = ("new", "good", "worn", "broken", "repaired")
CELLS = ("<td>{}</td>", "<td class='c'>{}</td>", "<td><b>{}</b></td>", "<td><a href='#'>{}</a></td>")
_ASKED = re.compile(r"Write the rows of the table (\S+) as .* with the columns (.+) in this order")
_WIDEST = 48  # characters of a row of three columns, at most


@dataclasses.dataclass(frozen=True)
class Table:
    """All rows of one table of a page are asked for, some of its columns in a given order.

    Attributes:
      rows: of each table.
      columns: that are asked for, of the six.
    """

    rows: int = 12
    columns: int = 3
    smallest: int = 12
    source: str = (
        "LongProc's HTML to TSV (arXiv 2501.05414), over generated pages and without conditions on rows, which may "
        "come in any order"
    )
    diffusion: str = "low"
    scope: str = "low"

    def __post_init__(self):
        if self.rows < 1 or not 2 <= self.columns <= len(COLUMNS):
            raise ValueError(f"{self} is not of a row or more and 2 to {len(COLUMNS)} columns.")

    @property
    def budget(self) -> int:
        """See Questions: as many as bytes."""
        return self.rows * _WIDEST * max(self.columns, 3) // 3

    @property
    def what(self) -> str:
        """See Questions."""
        return f"a table of {self.rows} rows out of a page, {self.columns} of its columns, as TSV"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: rows of tables that are not asked for."""
        columns = [COLUMNS[0], *(COLUMNS[1 + i] for i in rng.permutation(len(COLUMNS) - 1)[: self.columns - 1])]
        columns = [columns[i] for i in rng.permutation(self.columns)]  # the item among them: no two rows are the same
        keys, depth = words.keys(rng), float(rng.random())
        caption, records = next(keys), _records(rng, keys, self.rows)
        asked = _page(rng, caption, records)
        hay = np.random.default_rng(rng.integers(1 << 62))
        others = []
        for at in range(0, size, self.rows):  # whole tables are drawn, so that the last one grows row by row
            other, drawn = next(keys), _records(hay, keys, self.rows)
            others.append(_page(hay, other, drawn, min(size - at, self.rows)))
        query = Query(
            QUESTION.format(caption=caption, columns=", ".join(columns)),
            "\n" + "\t".join(columns),
            tuple("\t".join(record[column] for column in columns) for record in records),
            depth=depth,
        )
        body = "\n".join(words.placed(others, [(depth, asked)]))
        return Sample(f"{TASK}<html><body>\n{body}\n</body></html>", (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition(QUESTION.partition("{")[0])
        caption, columns = _ASKED.findall(QUESTION.partition("{")[0] + question)[0]
        table = context.partition(f"<caption>{caption}</caption>")[2].partition("</table>")[0]
        lines = [
            [html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<t[dh].*?</t[dh]>", row)]
            for row in table.split("</tr>")[:-1]
        ]
        at = [lines[0].index(column) for column in columns.split(", ")]
        return "\n" + "\n".join("\t".join(cells[i] for i in at) for cells in lines[1:])

    def score(self, answer: str, query: Query) -> float:
        """See Questions: F1 of the rows, lines that hold a tab; the names of the columns are none."""
        rows = ["\t".join(cell.strip() for cell in line.split("\t")) for line in answer.splitlines() if "\t" in line]
        return scores.set_f1([row for row in rows if row != query.prefix.strip()], query.gold)

    def chance(self, query: Query) -> float:
        """See Questions: no row can be known without the page."""
        return 0.0


def _records(rng: np.random.Generator, items: Iterator[str], count: int) -> list[dict[str, str]]:
    """Records with a cell for each of COLUMNS."""
    draws = lambda low, high: rng.integers(low, high, count).tolist()
    first, second = draws(0, len(words.PERSONS)), draws(1, len(words.PERSONS))
    owners = [
        f"{words.PERSONS[one]} & {words.PERSONS[(one + step) % len(words.PERSONS)]}"
        for one, step in zip(first, second, strict=True)
    ]
    names = [item.replace("-", " ") for item in words.take(items, count)]
    shelves = [
        f"{letter}{number}" for letter, number in zip(rng.choice(list("ABCDEF"), count), draws(1, 40), strict=True)
    ]
    states = [STATES[i] for i in draws(0, len(STATES))]
    cells = zip(names, owners, map(str, draws(10, 2000)), map(str, draws(1850, 2020)), shelves, states, strict=True)
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells]


def _page(rng: np.random.Generator, caption: str, records: list[dict[str, str]], rows: int | None = None) -> str:
    """The table of the first `rows` records, all if None, as HTML, its columns in a random order."""
    columns = [COLUMNS[i] for i in rng.permutation(len(COLUMNS))]
    kinds = rng.integers(0, len(CELLS), (len(records), len(COLUMNS))).tolist()
    lines = [
        "".join(CELLS[kind].format(html.escape(record[name])) for kind, name in zip(own, columns, strict=True))
        for own, record in zip(kinds[:rows], records, strict=False)
    ]
    head = "".join(f"<th>{name}</th>" for name in columns)
    body = "\n".join(f"<tr>{line}</tr>" for line in [head, *lines])
    return f"<table>\n<caption>{caption}</caption>\n{body}\n</table>"
