"""Passkey retrieval over length x depth: a number hidden in filler (Mohtashami & Jaggi 2023).

Scored by teacher forcing, so that one forward pass per row is enough and no generation is needed. Every prompt makes
two rows: its own, and a control in which another number of as many digits is hidden. The answer scored is the same.
"""

import dataclasses
import math

import numpy as np

from longctx.data.generated import passkey
from longctx.data.tokenizers import Tokenizer
from longctx.evals import batches, drawing, results
from longctx.evals.batches import Piece
from longctx.evals.by_row import Counts, Rows, Shares
from longctx.evals.task import Task

CELL = ("accuracy", "exact", "control", "loss", "gain", "gain_error")
FIT_TRIES = 8


def run(predictor, documents, tokenizer, config, lengths, seed) -> dict:
    """A grid over lengths (tokens) and depths (0 = start, 1 = end of the filler), `config.samples` prompts a cell.

    Prompt and answer become tokens together, as text does. Scored are the tokens that hold a digit of the answer. For a
    byte tokenizer the answer is a space and the digits, a token each: the space, which any model gets right, is left
    out; a token of the space and the first digits counts.

    accuracy   share of these tokens, over all prompts of a cell, that are the model's top choice
    exact      share of prompts in which all of them are: after the space greedy decoding then writes the number
    control    the accuracy with another number hidden: what a model gets without finding it; its mean over the grid is
               `chance`
    loss       nats per scored token
    gain       loss with another number hidden - loss, in nats per scored token; 0 without finding the number
    Rows of `grid` run over depths, columns over lengths. A length too short for the prompt has None, and so has all
    of it if the tokenizer does not tell numbers apart. No document is read.
    """
    depths = _depths(config.depths)
    columns = [_column(predictor, tokenizer, length, depths, config.samples, seed) for length in lengths]
    controls = [cell["control"] for column in columns for cell in column if cell["control"] is not None]
    return {
        "what": "passkey retrieval, teacher forced",
        "units": {
            "lengths": "tokens",
            "depths": "share of the filler before the number",
            "accuracy": "share of the answer's digit tokens",
            "exact": "share of prompts",
            "control": "share of the answer's digit tokens, another number hidden",
            "chance": "mean of control",
            "loss": "nats per digit token",
            "gain": "nats per digit token",
            "gain_error": "nats per digit token, standard error over prompts",
        },
        "lengths": list(lengths),
        "depths": depths,
        "samples": config.samples,
        "chance": batches.mean_and_error(controls)[0],
        "grid": {name: [[column[row][name] for column in columns] for row in range(len(depths))] for name in CELL},
    }


@dataclasses.dataclass(frozen=True)
class Passkeys(Shares):
    """`number` prompts at every length, see longctx.evals.by_row.RowTask. Row i is of depth i modulo `depths`.

    A prompt is right as `exact` in the grid of `run` has it; no control row is read.
    """

    tokenizer: Tokenizer
    number: int
    depths: int
    seed: int
    what = "passkeys found, share of prompts in which all digits are the top choice"
    chance = 0.0
    why_none = "a prompt is longer, or the tokenizer does not tell numbers apart"

    def count(self, length: int) -> int:
        """See RowTask: no row where `run` has None."""
        if passkey.shortest(self.tokenizer) > length:
            return 0
        return self.number if _pair(self._rng(length, 0), self.tokenizer, length, 0.0) else 0

    def rows(self, length: int, numbers: range) -> Rows:
        """See RowTask."""
        prompts, of_depth = [], _depths(self.depths)
        for number in numbers:
            text, answer = _fit(self._rng(length, number), self.tokenizer, length, of_depth[number % self.depths])
            prompts.append(_prompt(self.tokenizer, text + answer, answer.strip(), length))
        times = lambda depths: np.bincount(depths, minlength=self.depths).tolist()

        def counted(prediction: batches.Prediction) -> Counts:
            right = np.array(
                [
                    top[: len(prompt.inputs)][prompt.asked].all()
                    for top, prompt in zip(prediction.top, prompts, strict=True)
                ]
            )
            depths = np.array(numbers) % self.depths
            return {"asked": times(depths), "right": times(depths[right])}

        return Rows(batches.batch([[prompt] for prompt in prompts], length, self.tokenizer.pad), counted)

    def _rng(self, length: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, length, number])


def _depths(count: int) -> list[float]:
    return [round(float(depth), 4) for depth in np.linspace(0, 1, count)]


def _column(predictor, tokenizer, length, depths, samples, seed) -> list[dict]:
    """The cells of one length, in the order of depths."""
    prompts = _prompts(tokenizer, length, depths, samples, seed)
    if prompts is None:
        return [dict.fromkeys(CELL) for _ in depths]
    answers = _answers(predictor, prompts, length, tokenizer.pad)
    return [_cell(answers[i : i + samples]) for i in range(0, len(answers), samples)]


def _prompts(tokenizer, length, depths, samples, seed) -> list[tuple[Piece, Piece]] | None:
    """`samples` pairs (see _pair) of each depth in turn; None where one of them cannot be made."""
    rng = np.random.default_rng([seed, length])
    pairs = [_pair(rng, tokenizer, length, depth) for depth in depths for _ in range(samples)]
    return None if None in pairs else pairs


def _answers(predictor, prompts: list[tuple[Piece, ...]], length, pad) -> list[list[batches.Prediction]]:
    """For each group of prompts, of each the prediction of what it asks for."""
    predictions = iter(batches.score(predictor, [[prompt] for group in prompts for prompt in group], length, pad))
    return [
        [batches.Prediction(*(values[prompt.asked] for values in next(predictions)[0])) for prompt in group]
        for group in prompts
    ]


def _cell(answers: list[list[batches.Prediction]]) -> dict:
    """From the scored tokens of each prompt, with its own number and with another one hidden."""
    accuracy, control = (np.concatenate([answer.top for answer in row]).mean() for row in zip(*answers, strict=True))
    exact = np.mean([own.top.all() for own, _ in answers])
    loss, other = np.array([[answer.nll.mean() for answer in pair] for pair in answers]).T
    values = (accuracy, exact, control, loss.mean())
    return dict(zip(CELL, (*map(batches.number, values), *batches.mean_and_error(other - loss)), strict=True))


def _pair(rng, tokenizer, length, depth) -> tuple[Piece, Piece] | None:
    """With its own number and with another one hidden; None where `length` is too short or tokens hold no numbers."""
    fitted = _fit(rng, tokenizer, length, depth)
    if fitted is None:
        return None
    text, answer = fitted
    number = answer.strip()
    own, control = (
        _prompt(tokenizer, text.replace(number, hidden) + answer, number, length)
        for hidden in (number, _another(rng, number))
    )
    if not len(own.asked) or np.array_equal(own.inputs, control.inputs):
        return None
    return own, control


def _prompt(tokenizer, text: str, number: str, length: int) -> Piece:
    """The prompt that a text makes which ends with the number: what is asked for are the tokens with a digit of it."""
    piece = batches.answered(tokenizer, text, number)
    # the other number may be a token longer
    return piece._replace(inputs=piece.inputs[-length:], targets=piece.targets[-length:])


def _another(rng, number: str) -> str:
    """Another number of as many digits, uniform like the hidden ones, so that a first digit agrees as often."""
    smallest, end = 10 ** (len(number) - 1), min(10 ** len(number), passkey.LARGEST + 1)
    drawn = int(rng.integers(smallest, end - 1))
    return str(drawn + (drawn >= int(number)))


def _fit(rng, tokenizer, length, depth) -> tuple[str, str] | None:
    """The longest prompt found with at most `length` inputs: text before the answer, answer."""
    state = rng.integers(1 << 62)
    best, size = None, length
    for _ in range(FIT_TRIES):
        text, answer = passkey.prompt(np.random.default_rng(state), size, depth)
        inputs = len(tokenizer.encode((text + answer).encode()))  # with the start token, without the last one
        if inputs <= length and (best is None or inputs > best[0]):
            best = (inputs, text, answer)
        if inputs == length:
            break
        step = (length - inputs) * max(1.0, len(text) / inputs)
        size = max(1, size + math.floor(step) if step < 0 else size + math.ceil(step))
    return best and best[1:]


def finding(result: dict, trained: int) -> str:
    """The share of the digits that are found, over the whole grid, beside what guessing gets."""
    accuracy, exact = _cells(result, "accuracy"), _cells(result, "exact")
    if not np.isfinite(accuracy).any():
        return "No length was long enough for the prompt, or the tokenizer has no digits."
    return (
        f"{np.nanmean(accuracy):.0%} of the digits are the model's top choice (chance, measured by hiding another "
        f"number: {result['chance']:.0%}); in {np.nanmean(exact):.0%} of the prompts all are "
        f"({result['samples']} per cell)."
    )


def headline(result: dict, trained: int) -> str:
    """The share of the digits that are found, over the whole grid."""
    accuracy = _cells(result, "accuracy")
    return f"passkey {np.nanmean(accuracy):.0%} of digits" if np.isfinite(accuracy).any() else ""


def _cells(result: dict, name: str) -> np.ndarray:
    return drawing.numbers(value for row in result["grid"][name] for value in row)


@drawing.style
def figure(result: dict, lengths: list[int], trained: int):
    """A heatmap, depth by length: the share of the digits found, and below it the gain in nats per digit token."""
    figure, axes = drawing.new_figure()
    columns, depths = result["lengths"], result["depths"]
    share, gain = (np.array(result["grid"][name], np.float64) for name in ("accuracy", "gain"))
    drawing.shares(
        figure, axes, share, [f"{x:.0%}" for x in depths], columns, trained, "digits found", result["chance"]
    )
    axes.set_ylabel("depth of the number in the text")
    for (row, col), value in np.ndenumerate(share):
        _write_cell(axes, row, col, value, gain[row, col])
    return figure


def _write_cell(axes, row: int, col: int, share: float, gain: float) -> None:
    """The numbers of a cell of the heatmap, in a colour that reads on that of the cell."""
    middle = (col + 0.5, row + 0.5)
    if np.isnan(share):
        axes.text(*middle, "too short", ha="center", va="center", color=drawing.MUTED, fontsize=7)
        return
    worth = f"{gain:+z.2f}" if np.isfinite(gain) else "?"
    axes.text(*middle, f"{share:.0%}\n{worth}", ha="center", va="center", fontsize=8, color=drawing.ink_on(share))


_SHOWN = ("accuracy", "exact", "gain")
_FORM = {
    "lengths": [int],
    "depths": [(int, float)],
    "samples": int,
    "chance": results.NUMBER,
    "grid": {name: [[results.NUMBER]] for name in _SHOWN},
}


def is_result(result: dict) -> bool:
    """Whether a stored dict is what `run` returns."""
    if not results.fits(result, _FORM):
        return False
    rows, columns, grid = len(result["depths"]), len(result["lengths"]), result["grid"]
    whole = all(len(grid[name]) == rows and all(len(row) == columns for row in grid[name]) for name in _SHOWN)
    return whole and (result["chance"] is not None or all(x is None for row in grid["accuracy"] for x in row))


TASK = Task(
    run,
    title="Passkey retrieval",
    caption="A number hidden in filler. Each cell: the share of its digits found, and the nats per digit saved.",
    finding=finding,
    figure=figure,
    is_result=is_result,
    headline=headline,
    fills_every_length=True,
)
