"""Continue a text: the new tokens are printed as they come.

    python -m experiments.generate --checkpoint PATH --prompt-file FILE --max-new-tokens N [--temperature X] [--top-p X]
                                   [--seed N] [--chunk N] [--tokenizer FILE|bytes] [--special-tokens parse|text]
                                   [--config.field=value ...]

PATH is the workdir of a run of experiments.train, whose settings --config.field=value changes (as experiments.evaluate
has it), the folder of a Hugging Face model, a .gguf file, or the id of a model in the hub's cache. The text of a
special token in the prompt is that token. The prompt starts with BOS, unless it does so itself or tokenizer_config.json
says that there is none (or add_bos_token=false).
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.planner import price
from experiments.run import command, processes
from experiments.settings import config as configs
from experiments.settings.console import Parser
from longctx.data import special_tokens, tokenizers
from longctx.errors import UserError
from longctx.generation import text
from longctx.generation.request import Request, stops


def arguments(argv):
    """(the options of this command, the --config.field=value among the arguments)."""
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", metavar="PATH", required=True, help="workdir of a run, or a model: folder, .gguf, id"
    )
    parser.add_argument("--prompt-file", metavar="FILE", required=True, help="the text to go on from")
    parser.add_argument("--max-new-tokens", metavar="N", type=int, required=True)
    parser.add_argument("--temperature", metavar="X", type=float, default=0.0, help="0 takes the likeliest token")
    parser.add_argument("--top-p", metavar="X", type=float, default=1.0, help="draw among the likeliest, this share")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of what is drawn (default: %(default)s)")
    parser.add_argument(
        "--chunk", metavar="N", type=int, default=512, help="tokens of the prompt read at a time (default: %(default)s)"
    )
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json or bytes (default: the checkpoint's)")
    parser.add_argument(
        "--special-tokens",
        choices=("parse", "text"),
        default="parse",
        help="what the text of a special token in the prompt is (default: %(default)s)",
    )
    return parser.parse_with_settings(argv)


class Source(NamedTuple):
    """A model that continues prompts, its weights not read yet.

    ends: the tokens that end the text. load: () -> (mesh, graph, params).
    """

    tokenizer: tokenizers.Tokenizer
    vocab_size: int
    ends: tuple[int, ...]
    load: Callable


def of_run(path: str, tokenizer: str | None, overrides: list[str]) -> Source:
    """The source in the workdir of a run. A text ends where its documents end, and as its tokenizer's folder says."""
    from experiments.settings import checks

    config, workdir = configs.from_workdir(["generate", "--workdir", path, *overrides])
    checks.check_settings(config)
    tokenizer = tokenizers.of(dataclasses.replace(config.data, tokenizer=tokenizer or config.data.tokenizer))

    def load():
        import jax

        from experiments.run.records import load_params
        from longctx.model import functional

        mesh = processes.start(config.mesh)
        price.check(config, mesh)
        _, params = load_params(config, workdir, mesh)
        with jax.set_mesh(mesh):
            return mesh, functional.graph(config.model, config.attention), params

    return Source(tokenizer, config.model.vocab_size, tokenizer.ends, load)


def of_hugging_face(path: str, tokenizer: str | None, overrides: list[str]) -> Source:
    """The source in a Hugging Face folder, a .gguf file or the hub's cache. A text ends as config.json and
    generation_config.json say.
    """
    if overrides:
        raise UserError(f"{overrides[0]} changes the settings of a run, and --checkpoint={path!r} is not one.")
    from longctx import hf
    from longctx.hf import sources

    path = str(sources.folder(path, "--checkpoint"))
    config, tokenizer = hf.model_config(path), tokenizers.load(tokenizer or path)

    def load():
        model = hf.load(path)
        return model.mesh, model.graph, model.params

    return Source(tokenizer, config.vocab_size, special_tokens.ends(path) or tokenizer.ends, load)


def _read(path: str) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--prompt-file={path!r} cannot be read: {error.strerror}.") from error


def _tokens(source: Source, written: bytes, options) -> np.ndarray:
    """The tokens of the prompt, all of them known to the model."""
    tokenizer, path = source.tokenizer, options.prompt_file
    tokenizers.check_vocabulary(tokenizer, source.vocab_size)
    parse = options.special_tokens == "parse"
    tokens = tokenizer.encode_prompt(written, source.vocab_size, path, parse)
    if not len(tokens):
        raise UserError(f"--prompt-file={path!r} holds no text to go on from.")
    for line in tokenizers.losses(tokenizer, [written], parse):
        print(line, file=sys.stderr)
    return tokens


def _kind(path: str) -> Callable:
    if configs.stored(path) is not None:
        return of_run
    if pathlib.Path(path).is_dir() and not (pathlib.Path(path) / "config.json").is_file():
        raise UserError(
            f"--checkpoint={path!r} is neither the workdir of a run that has saved a checkpoint nor a folder "
            "with the config.json of a Hugging Face model."
        )
    return of_hugging_face


def main(argv) -> None:
    options, overrides = arguments(argv[1:])
    request = Request(options.max_new_tokens, options.chunk, options.temperature, options.top_p).check()
    written = _read(options.prompt_file)
    source = _kind(options.checkpoint)(options.checkpoint, options.tokenizer, overrides)
    prompt = _tokens(source, written, options)
    mesh, graph, params = source.load()

    import jax

    from longctx.generation import api

    request = dataclasses.replace(request, stop=stops(source.ends, source.vocab_size))
    with jax.set_mesh(mesh):
        steps = api.stream(graph, params, [prompt], key=jax.random.key(options.seed), **dataclasses.asdict(request))
        for piece in text.as_it_comes(source.tokenizer, prompt, (int(chosen[0]) for chosen in steps)):
            print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    command.run(main)
