"""The requests of lm-evaluation-harness as tokens, and tokens as its answers. Free of jax and of lm_eval.

The text of a special token in a request is that token, as tokenizers of transformers read it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError
from longctx.evals.batches import Piece
from longctx.generation import text

MOST_TOKENS = 256  # of an answer, where a task does not say
COUNTS = "max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"  # names of that, first come first
SHOWN = 40  # characters of a text in a message


class Reader(NamedTuple):
    """A tokenizer and what a model makes of its tokens.

    Attributes:
      vocab_size: of the model.
      length: the most tokens that it reads in a row.
      cut: whether what is longer loses its beginning; else it is refused.
    """

    tokenizer: Tokenizer
    vocab_size: int
    length: int
    cut: bool = False

    def tokens(self, written: str) -> tuple[np.ndarray, np.ndarray]:
        """(int32[n], where each ends in the UTF-8 of the text, int64[n]), without a start token.

        Raises UserError for a token that the model does not have.
        """
        ids, spans = self.tokenizer.encode_with_spans(written.encode(), special=True)
        if (unknown := ids[ids >= self.vocab_size]).size:
            raise UserError(
                f"a request holds token {unknown[0]}, and the model has only {self.vocab_size}: {_shown(written)}."
            )
        return ids, spans[:, 1]

    @property
    def starts(self) -> bool:
        """Whether a prompt starts with the start token."""
        return len(self.tokenizer.encode_prompt(b"", self.vocab_size)) > 0

    def behind_start(self, ids: np.ndarray) -> np.ndarray:
        """The ids behind the start token, which they get unless they begin with it."""
        return ids if ids[:1].tolist() == [self.tokenizer.bos] else np.append(self.tokenizer.bos, ids).astype(np.int32)


def continued(reader: Reader, context: str, continuation: str) -> tuple[Piece, bool]:
    """(the piece that asks for the tokens of a continuation, whether its context was cut).

    Context and continuation become tokens together: a token that holds the end of the one and the beginning of the
    other is of the continuation. So is whitespace at the end of the context. Where no context is left it is the start
    token.

    Raises UserError for a continuation without a token, and for what is too long (see `Reader`).
    """
    kept = context.rstrip()
    ids, ends = reader.tokens(context + continuation)
    behind = np.flatnonzero(ends > len(kept.encode()))
    first = 0 if not kept else int(behind[0]) if len(behind) else len(ids)
    asked = len(ids) - first
    if first == 0 or reader.starts:
        ids = reader.behind_start(ids)
    asked = min(asked, len(ids) - 1)  # a start token that the text itself begins with is given
    if asked < 1:
        raise UserError(
            f"a request asks for {continuation!r}, which has no token, behind {_shown(context, tail=True)}."
        )
    piece = Piece(ids[:-1], ids[1:], np.arange(-asked, 0))
    return shortened(reader, piece, f"{_shown(context)} and {_shown(continuation)}")


def shortened(reader: Reader, piece: Piece, said: str) -> tuple[Piece, bool]:
    """(the piece, as long as the reader takes; whether it lost tokens after its first one to be that).

    Raises UserError for a longer one that the reader does not cut, or that asks for more tokens than it reads.
    """
    over = len(piece.inputs) - reader.length
    if over <= 0:
        return piece, False
    if not reader.cut or len(piece.asked) > reader.length:
        raise _too_long(len(piece.inputs), reader, said)
    inputs = piece.inputs[over:].copy()
    if len(piece.asked) < reader.length and piece.inputs[0] == reader.tokenizer.bos:
        inputs[0] = piece.inputs[0]
    return Piece(inputs, piece.targets[over:], piece.asked), True


def windows(reader: Reader, written: str) -> list[Piece]:
    """The pieces that together ask for every token of a text once, behind the start token.

    Each reads `reader.length` tokens, the last one too: it asks only for those that are left. A text that is shorter is
    one piece, an empty one none.
    """
    ids = reader.behind_start(reader.tokens(written)[0])
    count, pieces = len(ids) - 1, []
    for start in range(0, count, reader.length):
        end = min(start + reader.length, count)
        first = max(0, end - reader.length)
        pieces.append(Piece(ids[first:end], ids[first + 1 : end + 1], np.arange(start - end, 0)))
    return pieces


class Wanted(NamedTuple):
    """An answer that is to be written: the tokens before it, the most tokens of it, and the texts that end it."""

    prompt: np.ndarray
    count: int
    until: tuple[str, ...]


def wanted(reader: Reader, context: str, settings: Mapping) -> tuple[Wanted, bool]:
    """(the answer that a generation request asks for; whether its prompt was cut).

    settings: until (a text or several, "" is passed over), one of COUNTS, do_sample, temperature. Prompt and answer
    share a row.

    Raises UserError for one that asks for chance (do_sample, temperature), and for what is too long.
    """
    sampled = settings.get("do_sample")
    if sampled is not False and (sampled or settings.get("temperature")) and settings.get("temperature", 1) != 0:
        raise UserError(
            f"a task asks for do_sample={sampled}, temperature={settings.get('temperature')}; only greedy answers are "
            "written here (do_sample: false in generation_kwargs)."
        )
    count = int(next((settings[name] for name in COUNTS if settings.get(name) is not None), MOST_TOKENS))
    until = settings.get("until") or ()
    until = tuple(filter(None, [until] if isinstance(until, str) else until))
    ids, _ = reader.tokens(context)
    prompt = reader.behind_start(ids) if reader.starts or not len(ids) else ids
    room = reader.length - count
    if len(prompt) <= room:
        return Wanted(prompt, count, until), False
    if not reader.cut or room < 2:
        raise _too_long(len(prompt) + count, reader, f"{_shown(context)} and {count} tokens of an answer")
    start = prompt[:1] if prompt[0] == reader.tokenizer.bos else prompt[:0]
    return Wanted(np.append(start, prompt[len(prompt) - room + len(start) :]), count, until), True


def answer(reader: Reader, asked: Wanted, tokens: Sequence[int], ends: Sequence[int]) -> str:
    """The text of the tokens behind a prompt, up to a token of `ends` or a text that ends it, which is left out."""
    return "".join(text.until(_pieces(reader, asked, tokens, ends), asked.until))


def _pieces(reader: Reader, asked: Wanted, tokens: Sequence[int], ends: Sequence[int]) -> Iterator[str]:
    stop = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return text.as_it_comes(reader.tokenizer, asked.prompt[-text.CONTEXT :], tokens[:stop])


def _too_long(tokens: int, reader: Reader, said: str) -> UserError:
    return UserError(
        f"a request takes {tokens:,} tokens, and --length={reader.length} are read: {said}. A larger --length reads "
        "it, if the model can; --cut leaves out the beginning of what is too long, and counts it."
    )


def _shown(written: str, tail: bool = False) -> str:
    """A short piece of a text for a message."""
    if len(written) <= SHOWN:
        return repr(written)
    return f"...{written[-SHOWN:]!r}" if tail else f"{written[:SHOWN]!r}..."
