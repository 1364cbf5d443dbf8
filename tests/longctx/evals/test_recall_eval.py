import numpy as np

from longctx.config import RecallConfig
from longctx.data.generated import recall
from longctx.evals import batches
from longctx.evals.tasks.recall import Recall

TASK = RecallConfig(needles=4, key_tokens=9, value_tokens=5, filler_tokens=3)


def by_depth(predictor, length: int, number: int, depths: int) -> list[dict]:
    """Every depth's counts, of rows that are read in two parts of unlike sizes."""
    task = Recall(TASK, number, depths, seed=0)
    parts = [task.rows(length, numbers) for numbers in (range(number // 3), range(number // 3, number))]
    counts = task.merged([counted(predictor(batch)) for batch, counted in parts])
    return [{"asked": asked, "right": right} for asked, right in zip(counts["asked"], counts["right"], strict=True)]


def looks_back(reach):
    """A predictor that finds each key's needle if it lies no further back than `reach`."""

    def predict(batch):
        tokens, targets = batch["tokens"], batch["targets"]
        top = np.zeros(tokens.shape, bool)
        for i, row in enumerate(tokens):
            for column in recall.questions(TASK, len(row)):
                found = np.flatnonzero(row[:column] == row[column])[0]
                top[i, column] = column - found <= reach and row[found + 1] == targets[i, column]
        return batches.Prediction(np.zeros(tokens.shape), top)

    return predict


def test_who_finds_every_needle_recalls_all_and_who_looks_back_half_recalls_the_second_half():
    everything = by_depth(looks_back(200), 200, 64, depths=4)
    assert all(cell["right"] == cell["asked"] > 0 for cell in everything)
    half = by_depth(looks_back(97), 200, 64, depths=4)  # from the first question, column 193
    assert [cell["asked"] for cell in half] == [cell["asked"] for cell in everything]
    assert half[0]["right"] == half[1]["right"] == 0 and half[3]["right"] == half[3]["asked"]


def test_guessing_a_value_is_right_as_often_as_chance_says():
    def guess(batch):
        return batches.Prediction(np.zeros(batch["tokens"].shape), batch["targets"] == TASK.key_tokens)

    cells = by_depth(guess, 32, 512, depths=1)
    share, chance = cells[0]["right"] / cells[0]["asked"], 1 / TASK.value_tokens
    assert abs(share - chance) < 4 * (chance * (1 - chance) / cells[0]["asked"]) ** 0.5  # four standard errors


def test_rows_are_as_asked_for_and_the_same_in_any_parts():
    task = Recall(TASK, 32, 2, seed=0)
    assert task.count(64) == 32 and task.count(4 * TASK.needles - 1) == 0 and task.chance == 1 / 5
    whole, part = task.rows(64, range(32)).batch, task.rows(64, range(5, 9)).batch
    assert all((part[name] == whole[name][5:9]).all() for name in whole)
