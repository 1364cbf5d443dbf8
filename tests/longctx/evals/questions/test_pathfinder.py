"""Pictures of paths: paths that touch nowhere, an answer that another way to find it agrees with, no easy hint."""

import numpy as np
import pytest
from scipy import ndimage

from longctx.evals.questions import fit
from longctx.evals.questions.api import QUESTIONS

TASK = QUESTIONS["pathfinder"]


def drawn(count: int, size: int):
    """(picture of "#", "O" and ".", answer) of some samples."""
    for index in range(count):
        sample = fit.drawn(TASK, "pathfinder", 2, index, size)
        yield np.array([list(row) for row in sample.context.split("\n")[1:]]), sample.queries[0].gold[0]


@pytest.mark.parametrize("size", [4, 5, 16])
def test_pieces_that_hang_together_are_one_path_with_two_ends(size):
    for picture, answer in drawn(40, size):
        assert picture.shape == (2 * size - 1, 2 * size - 1) and (picture == "O").sum() == 2
        pieces = picture != "."
        labels, count = ndimage.label(pieces)
        near = np.pad(pieces, 1).astype(int)
        near = (near[:-2, 1:-1] + near[2:, 1:-1] + near[1:-1, :-2] + near[1:-1, 2:]) * pieces
        assert count >= 2 and near.max() <= 2
        assert all((near[labels == label] == 1).sum() == 2 for label in range(1, count + 1))
        ends = labels[picture == "O"]
        assert (near[picture == "O"] == 1).all() and (ends[0] == ends[1]) == (answer == "yes")


def test_neither_distance_nor_its_parity_tells_the_answer():
    told = []
    for picture, answer in drawn(400, 16):
        one, other = np.argwhere(picture == "O")
        told.append((abs(one - other).sum() // 2, answer == "yes"))
    distances, right = np.array(told).T
    assert 160 < right.sum() < 240
    rules = [distances < limit for limit in range(1, 20)] + [distances % 2 == 0]
    assert max(max((rule == right).mean(), (rule != right).mean()) for rule in rules) < 0.6


def test_only_the_first_word_that_answers_counts():
    sample = fit.drawn(TASK, "pathfinder", 0, 0, 4)
    query = sample.queries[0]._replace(gold=("yes",))
    assert [TASK.score(answer, query) for answer in (" Yes, not no", "no yes", "yesterday", "eyes: yes")] == [
        1,
        0,
        0,
        1,
    ]
