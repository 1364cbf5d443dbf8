"""Text pieces from tokens as they are generated. Free of jax."""

from collections.abc import Iterable, Iterator, Sequence

from longctx.data.tokenizers import Tokenizer

UNFINISHED = "\ufffd"  # what tokenizers write for a character whose last bytes are still to come
CONTEXT = 32  # tokens before the new ones that are decoded along with them, at most
HELD = 256  # tokens that are held back for a character to be completed, at most


def as_it_comes(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
    """Yields decode(prompt + tokens)[len(decode(prompt)):] in pieces, each as soon as its characters are complete.

    The text of a token depends on whether text precedes it: many decoders strip a space off the first token. So new
    tokens are decoded together with the last few before them, and the text of the latter is cut off. (Where byte tokens
    of a byte-fallback tokenizer turn out not to be UTF-8 after some were yielded, these stay as they were.)
    """
    before, new = _context(tokenizer, [int(token) for token in prompt if tokenizer.writes(token)]), []
    shown = len(tokenizer.decode(before))
    for token in filter(tokenizer.writes, tokens):
        new.append(token)
        text = tokenizer.decode(before + new)
        if text.endswith(UNFINISHED) and len(new) < HELD:
            continue
        if piece := text[shown:]:
            yield piece
        before, new = _context(tokenizer, before + new), []
        shown = len(tokenizer.decode(before))
    if piece := tokenizer.decode(before + new)[shown:]:
        yield piece


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """Yields the text of the pieces up to that of the `stops` which is complete first; it is left out.

    Of two that end together it is the longer one. What may be the beginning of a stop is held back until it is known.
    """
    held = ""
    for piece in pieces:
        held += piece
        found = [(at + len(stop), at) for stop in stops if (at := held.find(stop)) >= 0]
        if found:
            _, start = min(found)
            if start:
                yield held[:start]
            return
        safe = len(held) - max((_begun(held, stop) for stop in stops), default=0)
        if safe:
            yield held[:safe]
            held = held[safe:]
    if held:
        yield held


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
