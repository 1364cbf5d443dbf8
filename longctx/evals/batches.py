"""From documents to batches as large as the work, and back to one prediction per piece of text."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from longctx.data.document import Document
from longctx.data.rows import framed, spelled
from longctx.memory.sizes import readable

BATCH_TOKENS = 16384  # a batch holds at most about this many tokens: long rows come alone, short ones together
WINDOW_TOKENS = 8192  # short windows: as many per document as fill this, so that short lengths are not noisier
SCAN_BYTES = 1 << 25  # tokenise at most this much text while looking for documents that are long enough
NONE_LONG_ENOUGH = f"no held-out document is that long, in {readable(SCAN_BYTES)} of text at most"


class Prediction(NamedTuple):
    """Predictions of targets, [B, T] of a batch or [n] of a piece.

    nll: float, the negative log-likelihood of each target in nats, given everything before it. top: bool, whether the
    target is the model's top choice, so that greedy decoding would write it. Of a target that is not asked for they are
    NaN and False.
    """

    nll: np.ndarray
    top: np.ndarray


Predictor = Callable[[dict[str, np.ndarray]], Prediction]


class Piece(NamedTuple):
    """Consecutive text read from an empty context: inputs and targets, int32[n] each.

    asked: int, the places of the targets that are to be predicted, counted from either end; None: all. Where they are
    few, the head of the model reads little more than these.
    """

    inputs: np.ndarray
    targets: np.ndarray
    asked: np.ndarray | None = None


class LongDocument(NamedTuple):
    """A tokenised document.

    Attributes:
      ids: int32[n + 1], with its start and end markers, hence n targets.
      spans: int64[n - 1, 2], the bytes of the text that each target but the end marker stands for, by the tokenizer.
      text: in bytes.
      counts: bool[n], which targets count in the loss of a training; None: all.
    """

    ids: np.ndarray
    spans: np.ndarray
    text: bytes
    counts: np.ndarray | None = None

    @property
    def targets(self) -> int:
        return len(self.ids) - 1

    @property
    def ends(self) -> np.ndarray:
        """int64[n]: the byte of the text at which each target ends, never falling, so that each byte is in one target.

        Bytes that the tokenizer trims or drops belong to the target behind them, those at the end to the last token.
        """
        ends = np.append(np.maximum.accumulate(self.spans[:, 1]), len(self.text))
        ends[-2:] = len(self.text)
        return ends

    @property
    def bytes(self) -> np.ndarray:
        """int64[n]: the number of bytes in each target; see `ends`. The end marker has none."""
        return np.diff(self.ends, prepend=0)

    @property
    def of_text(self) -> np.ndarray:
        """bool[n]: which targets are text; the end marker is not."""
        return np.arange(self.targets) < self.targets - 1


def rows_at(length: int) -> int:
    """The most rows of an evaluation batch at a length in tokens."""
    return max(1, BATCH_TOKENS // length)


def long_documents(documents: Sequence, tokenizer, lengths: Sequence[int], count: int, seed: int):
    """For each length up to `count` documents with at least that many targets: dict length -> list[LongDocument].

    The same documents serve several lengths wherever they can: curves at two lengths then differ by the length alone.
    """
    found: list[LongDocument] = []
    scanned = 0
    for index in np.random.default_rng(seed).permutation(len(documents)):
        document = documents[int(index)]
        size = len(document.text if document.ids is None else document.ids)
        if size + 1 < min(lengths):  # a token holds at least one byte
            continue
        found.append(long_document(tokenizer, document))
        scanned += size
        if sum(document.targets >= max(lengths) for document in found) == count or scanned > SCAN_BYTES:
            break
    found.sort(key=lambda document: -sum(document.targets >= length for length in lengths))  # stable
    return {length: [d for d in found if d.targets >= length][:count] for length in lengths}


def long_document(tokenizer, document: Document) -> LongDocument:
    """A document with its markers. Raises UserError with its name for text that the tokenizer does not take.

    What is tokenised already stays as it is, with what counts of it and with the special tokens inside, such as those
    of a chat template: its text here is what its tokens spell, special ones by name. An end marker that is missing is
    added, and does not count.
    """
    if document.ids is not None:
        return _of_ids(tokenizer, document.ids, document.counts)
    ids, spans, counts = spelled(document, tokenizer)
    return LongDocument(ids.astype(np.int32), spans, document.text, None if counts is None else counts[1:])


def _of_ids(tokenizer, ids: np.ndarray, counts: np.ndarray | None) -> LongDocument:
    """A document of ids, which may begin and end with its markers."""
    begun, ended = bool(ids[0] == tokenizer.bos), len(ids) > 1 and bool(ids[-1] == tokenizer.eos)
    inside = slice(int(begun), len(ids) - ended)
    known, of = np.unique(ids[inside], return_inverse=True)
    spellings = [tokenizer.spelling(int(token)) for token in known]
    ends = np.cumsum(np.array([*map(len, spellings)], np.int64)[of])
    text = b"".join(spellings[i] for i in of.tolist())
    if counts is not None or not ended:
        counts = np.ones(len(ids), bool) if counts is None else counts
        counts = np.append(counts[inside], ended and counts[-1])
    spans = np.stack([np.append(0, ends)[:-1], ends], axis=1)
    return LongDocument(framed(ids[inside], tokenizer).astype(np.int32), spans, text, counts)


def windows(document: LongDocument, length: int, bos: int, rng: np.random.Generator) -> list[Piece]:
    """Cuts of `length` tokens at random places, without overlap. Each starts with the start marker, as documents do.

    Random places, because the head of a document differs from the rest of it: a loss that falls with the position then
    falls because of the context.
    """
    return [last_tokens(document.ids, end, length, bos) for end in window_ends(document, length, rng)]


def window_ends(document: LongDocument, length: int, rng: np.random.Generator) -> list[int]:
    """The ends of `windows`: one that ends at e reads targets e - length to e - 1 of the document."""
    count = min(max(1, WINDOW_TOKENS // length), document.targets // length)
    slack = np.sort(rng.integers(0, document.targets - count * length + 1, size=count))
    return [int(start) + (i + 1) * length for i, start in enumerate(slack)]


def last_tokens(ids: np.ndarray, end: int, context: int, bos: int) -> Piece:
    """The piece of `context` tokens whose last input is ids[end - 1]; its first input becomes the start marker."""
    inputs = ids[end - context : end].copy()
    inputs[0] = bos
    return Piece(inputs, ids[end - context + 1 : end + 1])


def answered(tokenizer, text: str, answer: str) -> Piece:
    """A text that ends with an answer; asked for are the tokens that hold a character of the answer, from the end.

    All of it becomes tokens together, as text does: a token of what is before and the first character counts.
    """
    ids, spans = tokenizer.encode_with_spans(text.encode())
    start = len(text.encode()) - len(answer.encode())
    asked = np.flatnonzero(spans[:, 1] > np.maximum(spans[:, 0], start)) - len(ids)
    ids = np.append(tokenizer.bos, ids).astype(np.int32)
    return Piece(ids[:-1], ids[1:], asked)


class Placed(NamedTuple):
    """A piece in a row: its segment, from 1 on, and the position of its first token."""

    piece: Piece
    segment: int
    first: int = 0


def score(predictor: Predictor, rows: Sequence[Sequence[Piece]], length: int, pad: int) -> list[list[Prediction]]:
    """The prediction of every target: for each row, for each of its pieces, nll f64[n] and top bool[n].

    The pieces of a row are separate documents to the model; together they must fit into `length`.
    """
    return score_placed(predictor, [_documents(row) for row in rows], length, pad)


def score_placed(predictor: Predictor, rows: Sequence[Sequence[Placed]], width: int, pad: int):
    """The predictions of `score`, of pieces that say their segments and positions, in rows of `width` tokens."""
    results, size = [], rows_at(width)
    for start in range(0, len(rows), size):
        group = rows[start : start + size]
        prediction = predictor(batch_placed(group, width, pad))
        nll, top = np.asarray(prediction.nll, np.float64), np.asarray(prediction.top, bool)
        assert nll.shape == top.shape == (len(group), width), (
            f"The predictor gave nll {nll.shape} and top {top.shape} for a batch of {(len(group), width)}."
        )
        for i, row in enumerate(group):
            ends = np.cumsum([len(placed.piece.inputs) for placed in row])
            cuts = [(i, slice(end - len(placed.piece.inputs), end)) for placed, end in zip(row, ends, strict=True)]
            results.append([Prediction(nll[cut], top[cut]) for cut in cuts])
    return results


def _documents(row: Sequence[Piece]) -> list[Placed]:
    """The pieces of a row as documents of their own."""
    return [Placed(piece, i) for i, piece in enumerate(row, start=1)]


def batch(rows: Sequence[Sequence[Piece]], length: int, pad: int) -> dict[str, np.ndarray]:
    """The batch of rows whose pieces are documents of their own, see longctx.evals.task."""
    return batch_placed([_documents(row) for row in rows], length, pad)


def batch_placed(rows: Sequence[Sequence[Placed]], width: int, pad: int) -> dict[str, np.ndarray]:
    """The batch of rows, one piece after another."""
    size = len(rows)
    arrays = {
        "tokens": np.full((size, width), pad, np.int32),
        "targets": np.full((size, width), pad, np.int32),
        "weights": np.zeros((size, width), np.float32),
        "positions": np.zeros((size, width), np.int32),
        "segments": np.zeros((size, width), np.int32),
    }
    for i, row in enumerate(rows):
        start = 0
        for piece, segment, first in row:
            n = len(piece.inputs)
            assert start + n <= width, f"{start + n} tokens do not fit a row of {width}."
            cut = (i, slice(start, start + n))
            arrays["tokens"][cut], arrays["targets"][cut] = piece.inputs, piece.targets
            arrays["positions"][cut], arrays["segments"][cut] = first + np.arange(n), segment
            arrays["weights"][cut][slice(None) if piece.asked is None else piece.asked] = 1
            start += n
    return arrays


def mean_and_error(values) -> tuple[float | None, float | None]:
    """The mean of independent values and its standard error, rounded for a report; None where there is none."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return None, None
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return number(values.mean()), number(error)


def ratio_and_error(sums, counts) -> tuple[float | None, float | None]:
    """sum(sums) / sum(counts) over independent draws and its standard error, rounded for a report; None for none.

    sums, counts: [draws]. The error is that of a ratio of means (Cochran, Sampling Techniques, 1977, 6.3).
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    if not counts.sum():
        return None, None
    ratio, draws = sums.sum() / counts.sum(), len(sums)
    if draws < 2:
        return number(ratio), None
    spread = math.sqrt(((sums - ratio * counts) ** 2).sum() * draws / (draws - 1))
    return number(ratio), number(spread / counts.sum())


def bits_per_byte(nats, sizes) -> tuple[float | None, float | None]:
    """Bits per byte of text and its standard error: comparable whatever the tokenizer is.

    nats: [documents], sums of losses over targets that are text; sizes: [documents], the bytes that these stand for.
    """
    return ratio_and_error(np.asarray(nats, np.float64) / math.log(2), sizes)


def perplexity(loss: float | None) -> float | None:
    """exp of a loss in nats, rounded for a report; None for none, and where it is no float."""
    return None if loss is None or loss > 700 else number(math.exp(loss))


def binomial(right: float, asked: int) -> tuple[float, float]:
    """The 95% interval of a share of which `right` out of `asked` draws are seen (Wilson 1927); (0, 1) of none.

    right: perhaps a sum of shares of draws.
    """
    if not asked:
        return 0.0, 1.0
    z, share = 1.959964, right / asked
    middle, spread = share + z * z / (2 * asked), z * math.sqrt((share * (1 - share) + z * z / (4 * asked)) / asked)
    return max(0.0, (middle - spread) / (1 + z * z / asked)), min(1.0, (middle + spread) / (1 + z * z / asked))


def number(value: float) -> float | None:
    """Five significant digits, or None for what JSON cannot hold (NaN, infinity)."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
