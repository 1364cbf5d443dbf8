"""Two marked ends in a picture of paths: whether one path joins them."""

import dataclasses

import numpy as np

from longctx.evals.questions import scores
from longctx.evals.questions.question import Guessed, Query, Sample

TASK = "The picture below is made of characters: # is a piece of a path, O is one of two marked ends, . is empty.\n"
QUESTION = "\nDoes one path join the two marked ends? Pieces of a path lie side by side or one below the other."
PREFIX = " Answer:"
ANSWERS = ("yes", "no")
STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
Cell = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Pathfinder(Guessed):
    """Whether one path joins two ends, in half of the samples.

    Paths are random walks over every second cell, which never come to a cell that a path has: so they touch nowhere.
    Where the ends are of two paths, they are as far apart, or nearly, as those of one, so that distance tells little.
    """

    budget: int = 8
    smallest: int = 4
    what: str = "whether one of many paths in a picture joins two marked ends"
    source: str = (
        "Pathfinder of the Long Range Arena (arXiv 2011.04006; arXiv 1805.08315), in characters and without dashes; "
        "pictures are 2n - 1 cells wide and high (n = 16 for its 32 x 32, 64 for Path-X)"
    )
    diffusion: str = "high"
    scope: str = "high"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: cells of a row that a path may turn at; the picture grows with its square."""
        gold, other = (ANSWERS[i] for i in rng.permutation(2))
        hay = np.random.default_rng(rng.integers(1 << 62))
        paths = _paths(hay, size)
        ends = (paths[0][0], paths[0][-1])
        if gold == "no":
            first, wanted = ends[0], _distance(*ends)
            others = [path[i] for path in paths[1:] for i in (0, -1)]
            ends = (first, min(others, key=lambda end: abs(_distance(first, end) - wanted)))
        picture = np.full((2 * size - 1, 2 * size - 1), ".")
        for path in paths:
            for (row, column), (row_next, column_next) in zip(path, [*path[1:], path[-1]], strict=True):
                picture[2 * row, 2 * column] = picture[row + row_next, column + column_next] = "#"
        for row, column in ends:
            picture[2 * row, 2 * column] = "O"
        text = TASK + "\n".join("".join(row) for row in picture.tolist())
        return Sample(text, (Query(QUESTION, PREFIX, (gold,), (gold, other)),))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        rows = prompt.rpartition(QUESTION)[0].partition("\n")[2].split("\n")
        pieces = {(i, j): piece for i, row in enumerate(rows) for j, piece in enumerate(row) if piece != "."}
        start = next(cell for cell, piece in pieces.items() if piece == "O")
        seen, left = {start}, [start]
        while left:
            row, column = left.pop()
            near = {(row + down, column + right) for down, right in STEPS} & pieces.keys() - seen
            seen |= near
            left += near
        return ANSWERS[sum(pieces[cell] == "O" for cell in seen) == 1]

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the first of "yes" and "no" that the answer holds is right."""
        return float(scores.first_named(answer, ANSWERS) == query.gold[0])


def _paths(rng: np.random.Generator, size: int) -> list[list[Cell]]:
    """Walks of up to `size` cells through a square of so many rows, from random cells: one for every two rows and one.

    The most that each may have is random, as the ends of equally long ones were an even or an odd distance apart.
    """
    free = {divmod(i, size) for i in range(size**2)}
    starts, turns, found = rng.permutation(size**2).tolist(), rng.random(size**2).tolist(), []
    for start in starts:
        if len(found) == size // 2 + 1:
            break
        path, most = [divmod(start, size)], int(rng.integers(size // 2, size + 1))
        while path[-1] in free:
            free.remove(path[-1])
            row, column = path[-1]
            near = [cell for cell in ((row + down, column + right) for down, right in STEPS) if cell in free]
            if near and len(path) < most:
                path.append(near[int(turns.pop() * len(near))])
        found += [path] if len(path) > 1 else []
    return found


def _distance(one: Cell, other: Cell) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])
