"""The loss of held-out text while a run trains: of the same tokens each time, read at the length of the stage."""

from collections.abc import Callable, Sequence

import numpy as np

from longctx.config import Config
from longctx.data.curriculum import Stage
from longctx.data.document import Document
from longctx.data.packing.best_fit import pack
from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError
from longctx.evals import batches
from longctx.evals.batches import Piece


def check(config: Config) -> None:
    """Raises UserError where the loss would be read with parameters that are not in device memory."""
    if config.eval.every_steps and "params" in config.memory.offload:
        raise UserError(
            f"eval.every_steps={config.eval.every_steps} reads with all parameters in device memory, and "
            f"memory.offload={config.memory.offload} keeps them in host memory; eval.every_steps=0 measures at the end."
        )


class HeldOut:
    """The mean loss of some held-out text, in nats per token that counts, by the parameters of a moment.

    The text is a cut of each of eval.documents documents, as long as the longest stage where the document is. In a
    stage of shorter rows it is read in pieces of that length, each from an empty context: so the loss is of the same
    tokens in every stage, and what a longer context is worth shows in it.

    Depends on the seed, the text and the parameters alone: a restart goes on with the same numbers. Every process calls
    it. A program is compiled for each stage; the last batch may take another one, of fewer rows.

    say: told, in a line, that a program is compiled.
    """

    def __init__(
        self,
        config: Config,
        mesh,
        stages: Sequence[Stage],
        documents: Sequence[Document],
        tokenizer: Tokenizer,
        say: Callable[[str], None],
    ):
        self._config, self._mesh, self._tokenizer, self._say = config, mesh, tokenizer, say
        self._texts = texts(documents, tokenizer, [stage.seq_len for stage in stages], config)
        self._stage, self._read = None, None

    def __call__(self, stage: Stage, params: dict) -> float:
        from longctx.evals.predictor import reader

        if self._stage != stage.index:
            self._say(f"compiling the held-out loss of stage {stage.index + 1} (length {stage.seq_len:,}) ...")
            self._stage, self._read = stage.index, reader(self._config, self._mesh, stage.rope)
        read = self._read
        assert read is not None
        length, tokenizer = stage.seq_len, self._tokenizer
        rows = in_rows([piece for text in self._texts for piece in pieces(*text, length, tokenizer.bos)], length)
        predicted = batches.score(lambda batch: read(params, batch), rows, length, tokenizer.pad)
        pairs = [pair for row, found in zip(rows, predicted, strict=True) for pair in zip(row, found, strict=True)]
        nll = [found.nll if piece.asked is None else found.nll[piece.asked] for piece, found in pairs]
        return float(np.concatenate(nll).mean())


def texts(documents: Sequence[Document], tokenizer: Tokenizer, lengths: Sequence[int], config: Config) -> list[tuple]:
    """The cuts that are read, each as (ids int32[n + 1], bool[n] which of its targets count or None for all).

    They are of documents that are long enough for the most stages, first. The cut of one of which parts count ends
    with the last of these.
    """
    lengths = sorted({1, *lengths})
    found = batches.long_documents(documents, tokenizer, lengths, config.eval.documents, config.seed)[1]
    rng = np.random.default_rng(config.seed)
    cuts = []
    for document in found:
        size = min(document.targets, lengths[-1])
        start, counts = int(rng.integers(0, document.targets - size + 1)), document.counts
        if counts is not None and counts.any():
            start = max(0, int(np.flatnonzero(counts)[-1]) + 1 - size)
        cut = slice(start, start + size)
        cuts.append((document.ids[start : start + size + 1], None if counts is None else counts[cut]))
    return cuts


def pieces(text: np.ndarray, counts: np.ndarray | None, length: int, bos: int) -> list[Piece]:
    """All targets of a text in pieces of `length` tokens, the last of the rest. Each begins with the start token.

    counts: see `texts`; given, those that count are asked for.
    """
    targets, cut = len(text) - 1, []
    for start in range(0, targets, length):
        end = min(start + length, targets)
        piece = batches.last_tokens(text, end, end - start, bos)
        cut.append(piece if counts is None else piece._replace(asked=np.flatnonzero(counts[start:end])))
    return cut


def in_rows(cut: list[Piece], length: int) -> list[list[Piece]]:
    """The pieces in as few rows of `length` tokens as best-fit packing finds."""
    packing = pack(np.array([len(piece.inputs) for piece in cut]), length)
    bounds = zip(packing.row_start, packing.row_start[1:], strict=False)
    return [[cut[number] for number in packing.document[first:end]] for first, end in bounds]
