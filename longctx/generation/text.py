"""Text pieces from tokens as they are generated. Free of jax."""

from collections.abc import Iterable, Iterator, Sequence

from longctx.data.tokenizers import Tokenizer

UNFINISHED = "\ufffd"  # what tokenizers write for a character whose last bytes are still to come
CONTEXT = 32  # tokens before the new ones that are decoded along with them, at most
HELD = 256  # tokens that are held back for a character to be completed, at most


class Pieces:
    """The text of tokens that follow a prompt, decode(prompt + tokens)[len(decode(prompt)):], piece by piece.

    Each piece comes as soon as its characters are complete. The text of a token depends on whether text precedes it:
    many decoders strip a space off the first token. So new tokens are decoded together with the last few before them,
    and the text of the latter is cut off. (Where byte tokens of a byte-fallback tokenizer turn out not to be UTF-8
    after some were given, these stay as they were.)
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]):
        self._tokenizer, self._new = tokenizer, []
        self._before = _context(tokenizer, [int(token) for token in prompt if tokenizer.writes(token)])
        self._shown = len(tokenizer.decode(self._before))

    def add(self, token: int) -> str:
        """The text that one more token makes complete."""
        if not self._tokenizer.writes(token):
            return ""
        self._new.append(token)
        text = self._tokenizer.decode(self._before + self._new)
        if text.endswith(UNFINISHED) and len(self._new) < HELD:
            return ""
        piece = text[self._shown :]
        self._before, self._new = _context(self._tokenizer, self._before + self._new), []
        self._shown = len(self._tokenizer.decode(self._before))
        return piece

    def end(self) -> str:
        """The rest, when no token follows."""
        return self._tokenizer.decode(self._before + self._new)[self._shown :]


class Until:
    """Text up to that of the `stops` which is complete first; it is left out.

    Of two that end together it is the longer one. What may be the beginning of a stop is held back until it is known.

    Attributes:
      over: whether a stop was found.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops, self._held, self.over = stops, "", False

    def add(self, piece: str) -> str:
        """The text that one more piece makes certain."""
        self._held += piece
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.over = True
            return self._given(min(found)[1])
        return self._given(len(self._held) - max((_begun(self._held, stop) for stop in self._stops), default=0))

    def end(self) -> str:
        """The rest, when no piece follows."""
        return "" if self.over else self._given(len(self._held))

    def _given(self, count: int) -> str:
        given, self._held = self._held[:count], self._held[count:]
        return given


def as_it_comes(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
    """Yields the text of tokens that follow a prompt, see Pieces."""
    pieces = Pieces(tokenizer, prompt)
    yield from filter(None, map(pieces.add, tokens))
    if piece := pieces.end():
        yield piece


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """Yields the text of the pieces up to a stop, see Until."""
    text = Until(stops)
    for piece in pieces:
        if given := text.add(piece):
            yield given
        if text.over:
            return
    if given := text.end():
        yield given


def _begun(text: str, stop: str) -> int:
    """How many of the last letters of a text are the first ones of `stop`, which is not in it whole."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _context(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The shortest tail of `ids` that decodes to complete characters: behind it, a decoder strips nothing.

    At most CONTEXT ids; where no tail does, the last CONTEXT.
    """
    for start in range(len(ids) - 1, max(len(ids) - CONTEXT, 0) - 1, -1):
        text = tokenizer.decode(ids[start:])
        if text and UNFINISHED not in text:
            return ids[start:]
    return ids[-CONTEXT:]
