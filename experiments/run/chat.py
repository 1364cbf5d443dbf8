"""A conversation in the terminal: turns are read from stdin, answers printed as they come."""

import dataclasses
import sys
from collections.abc import Iterator

from experiments.run.sources import CONTEXT
from experiments.settings.console import complain
from longctx.data import chat, tokenizers
from longctx.errors import UserError
from longctx.generation import text
from longctx.generation.request import Request, stops

NEW, EXIT = "/new", "/exit"
MARK = "> "  # of a turn that is waited for


def talk(source, request: Request, options) -> None:
    """Answers each line of stdin until it ends, or a line says /exit.

    source, options: the model and the options of experiments.generate. Raises UserError for a model without a chat
    template.
    """
    template = chat.load(source.folder)
    tokenizers.check_vocabulary(source.tokenizer, source.vocab_size)
    first = [{"role": "system", "content": options.system}] if options.system else []
    template.render([*first, {"role": "user", "content": "?"}])  # an error is one before the model is loaded
    capacity = options.context or min(source.longest, CONTEXT)
    mesh, graph, params = source.load(capacity)

    import jax

    from longctx.generation.session import Session

    request = dataclasses.replace(request, stop=stops(source.ends, source.vocab_size))
    with jax.set_mesh(mesh):
        session, messages = Session(graph, params, capacity), list(first)
        for line in _turns():
            if line == NEW:
                messages = list(first)
                continue
            messages.append({"role": "user", "content": line})
            key = jax.random.fold_in(jax.random.key(options.seed), len(messages))
            try:
                answer = _answer(source, session, template.render(messages), request, key, options.stop)
            except UserError as error:  # such as a row that is full
                complain(error)
                messages.pop()
                continue
            messages.append({"role": "assistant", "content": answer})


def _turns() -> Iterator[str]:
    """The lines of stdin, without empty ones."""
    while True:
        if sys.stdin.isatty():
            print(MARK, end="", flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() == EXIT:
            return
        if line.strip():
            yield line.strip()


def _answer(source, session, conversation: str, request: Request, key, stops_at: list[str]) -> str:
    """Prints the model's turn and returns it. Ctrl-C ends it early; what was said stays said."""
    ids = source.turns(conversation)
    pieces = text.as_it_comes(source.tokenizer, ids, session.stream(ids, request, key))
    answer = ""
    try:
        for piece in text.until(pieces, stops_at):
            print(piece, end="", flush=True)
            answer += piece
    except KeyboardInterrupt:
        pass
    print(flush=True)
    return answer.strip()
