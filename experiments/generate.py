"""Continue a text, or talk to a model: the new tokens are printed as they come.

    python -m experiments.generate --checkpoint PATH --prompt TEXT | --prompt-file FILE | --chat [--max-new-tokens N]
                                   [--temperature X] [--top-k N] [--top-p X] [--min-p X] [--repetition-penalty X]
                                   [--stop TEXT ...] [--seed N] [--chunk N] [--tokenizer FILE|bytes] [--adapter FOLDER]
                                   [--special-tokens parse|text] [--system TEXT] [--context N]
                                   [--config.field=value ...]

PATH is the workdir of a run of experiments.train, the folder of a Hugging Face model, a .gguf file, or the id of a
model in the hub's cache. --config.field=value changes the settings of a run (as experiments.evaluate has it), and of a
model its RoPE, its position method, its masks, dtypes and mesh, such as --config.model.rope.scaling=yarn.
The text of a special token in the prompt is that token. The prompt starts with BOS, unless it does so itself or
tokenizer_config.json says that there is none (or add_bos_token=false).

--chat reads turns from the terminal, a line each, and answers through the model's chat template; what was said stays in
the cache, --context tokens of it. /new starts anew, /exit ends; Ctrl-C ends an answer.
"""

import dataclasses
import pathlib
import sys

import numpy as np

from experiments.run import chat, command, sources
from experiments.run.sources import Source
from experiments.settings.console import Parser
from longctx.data import tokenizers
from longctx.errors import UserError
from longctx.generation import text
from longctx.generation.request import Request, stops


def arguments(argv):
    """(the options of this command, the --config.field=value among the arguments)."""
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", metavar="PATH", required=True, help="workdir of a run, or a model")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--prompt", metavar="TEXT", help="the text to go on from")
    given.add_argument("--prompt-file", metavar="FILE", help="the file of that text")
    given.add_argument("--chat", action="store_true", help="turns from the terminal, by the model's chat template")
    parser.add_argument("--system", metavar="TEXT", help="what --chat begins with, in the name of the system")
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--temperature", metavar="X", type=float, default=0.0, help="0 takes the likeliest token")
    parser.add_argument("--top-k", metavar="N", type=int, default=0, help="draw among so many of the likeliest")
    parser.add_argument("--top-p", metavar="X", type=float, default=1.0, help="draw among the likeliest, this share")
    parser.add_argument("--min-p", metavar="X", type=float, default=0.0, help="... among those so likely, of the first")
    parser.add_argument("--repetition-penalty", metavar="X", type=float, default=1.0, help="on tokens seen; 1 is none")
    parser.add_argument("--stop", metavar="TEXT", action="append", default=[], help="ends the text; may come again")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of what is drawn (default: %(default)s)")
    parser.add_argument(
        "--chunk", metavar="N", type=int, default=512, help="tokens of the prompt read at a time (default: %(default)s)"
    )
    parser.add_argument("--context", metavar="N", type=int, default=0, help="tokens that --chat has room for")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json or bytes (default: the checkpoint's)")
    parser.add_argument("--adapter", metavar="FOLDER", help="a low-rank adapter of the model, in peft's format")
    parser.add_argument(
        "--special-tokens",
        choices=("parse", "text"),
        default="parse",
        help="what the text of a special token in the prompt is (default: %(default)s)",
    )
    return parser.parse_with_settings(argv, texts=("prompt", "system", "stop"))


def _written(options) -> tuple[bytes, str]:
    """(the prompt, its name)."""
    if options.prompt is not None:
        return options.prompt.encode(), "--prompt"
    path = options.prompt_file
    try:
        return pathlib.Path(path).read_bytes(), f"--prompt-file={path!r}"
    except OSError as error:
        raise UserError(f"--prompt-file={path!r} cannot be read: {error.strerror}.") from error


def _tokens(source: Source, written: bytes, name: str, parse: bool = True) -> np.ndarray:
    """The tokens of the prompt called `name`, all of them known to the model. parse: see --special-tokens."""
    tokenizer = source.tokenizer
    tokenizers.check_vocabulary(tokenizer, source.vocab_size)
    tokens = tokenizer.encode_prompt(written, source.vocab_size, name, parse)
    if not len(tokens):
        raise UserError(f"{name} holds no text to go on from.")
    for line in tokenizers.losses(tokenizer, [written], parse):
        print(line, file=sys.stderr)
    return tokens


def _request(options) -> Request:
    fields = {field.name for field in dataclasses.fields(Request)} - {"stop"}
    request = Request(**{name: getattr(options, name) for name in fields}).check()
    if "" in options.stop:
        raise UserError("--stop='' is in every text; give it the text that ends one.")
    for name in () if options.chat else ("system", "context"):
        if getattr(options, name):
            raise UserError(f"--{name} is for --chat.")
    return request


def main(argv) -> None:
    options, overrides = arguments(argv[1:])
    request = _request(options)
    written = None if options.chat else _written(options)
    source = sources.of(options.checkpoint, "--checkpoint", overrides, options.tokenizer, options.adapter)
    if options.chat:
        chat.talk(source, request, options)
        return
    prompt = _tokens(source, *written, options.special_tokens == "parse")
    mesh, graph, params = source.load(len(prompt) + request.max_new_tokens)

    import jax

    from longctx.generation import api

    request = dataclasses.replace(request, stop=stops(source.ends, source.vocab_size))
    print(f"compiling, then reading {len(prompt):,} tokens ...", file=sys.stderr, flush=True)
    with jax.set_mesh(mesh):
        steps = api.stream(graph, params, [prompt], key=jax.random.key(options.seed), **dataclasses.asdict(request))
        pieces = text.as_it_comes(source.tokenizer, prompt, (int(chosen[0]) for chosen in steps))
        for piece in text.until(pieces, options.stop):
            print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    command.run(main)
