"""Continue a text: the new tokens are printed as they come.

    python -m experiments.generate --checkpoint PATH --prompt-file FILE --max-new-tokens N [--temperature X] [--top-p X]
                                   [--seed N] [--chunk N] [--tokenizer FILE|bytes] [--config.field=value ...]

PATH is the workdir of a run of experiments.train, whose settings --config.field=value changes (as experiments.evaluate
has it), or the folder of a Hugging Face model.
"""
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from experiments import config as configs
from experiments import price, processes
from experiments.options import Parser
from longctx.data import tokenizers
from longctx.errors import UserError
from longctx.generation.request import Request

UNFINISHED = "\ufffd"           # what tokenizers show of a character whose last bytes are still to come


def options(argv):
    """(the options of this command, the --config.field=value among the arguments)."""
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", metavar="PATH", required=True, help="workdir of a run, or Hugging Face model")
    parser.add_argument("--prompt-file", metavar="FILE", required=True, help="the text to go on from")
    parser.add_argument("--max-new-tokens", metavar="N", type=int, required=True)
    parser.add_argument("--temperature", metavar="X", type=float, default=0.0, help="0 takes the likeliest token")
    parser.add_argument("--top-p", metavar="X", type=float, default=1.0, help="draw among the likeliest, this share")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of what is drawn (default: %(default)s)")
    parser.add_argument("--chunk", metavar="N", type=int, default=512,
                        help="tokens of the prompt read at a time (default: %(default)s)")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json or bytes (default: the checkpoint's)")
    return parser.parse_with_settings(argv)


def text_as_it_comes(tokenizer: tokenizers.Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens, piece by piece: a character is held back until all of its bytes are there."""
    line, shown = [], 0
    for token in tokens:
        line.append(token)
        text = tokenizer.decode(line)
        if not text.endswith(UNFINISHED):
            yield text[shown:]
            line, shown = ([], 0) if text.endswith("\n") else (line, len(text))
    yield tokenizer.decode(line)[shown:]


def of_run(path: str, tokenizer: str | None, overrides: list[str]) -> tuple[tokenizers.Tokenizer, Callable]:
    """The tokenizer of a run, and what loads (mesh, graph, params)."""
    from experiments import checks
    config, workdir = configs.from_workdir(["generate", "--workdir", path, *overrides])
    checks.check_settings(config)
    tokenizer = tokenizers.load(tokenizer or config.data.tokenizer)
    tokenizers.check_vocabulary(tokenizer, config.model.vocab_size)

    def load():
        import jax

        from experiments.records import load_params
        from longctx.model import functional
        mesh = processes.start(config.mesh)
        price.check(config, mesh)
        _, params = load_params(config, workdir, mesh)
        with jax.set_mesh(mesh):
            return mesh, functional.graph(config.model, config.attention), params
    return tokenizer, load


def of_hugging_face(path: str, tokenizer: str | None, overrides: list[str]) -> tuple[tokenizers.Tokenizer, Callable]:
    """The same for a folder of Hugging Face."""
    if overrides:
        raise UserError(f"{overrides[0]} changes the settings of a run, and --checkpoint={path!r} is not one.")
    from longctx import hf
    config, tokenizer = hf.model_config(path), tokenizers.load(tokenizer or path)
    tokenizers.check_vocabulary(tokenizer, config.vocab_size)

    def load():
        model = hf.load(path)
        return model.mesh, model.graph, model.params
    return tokenizer, load


def _prompt(path: str) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--prompt-file={path!r} cannot be read: {error.strerror}.") from error


def _kind(path: str) -> Callable:
    if configs.stored(path) is not None:
        return of_run
    if (pathlib.Path(path) / "config.json").is_file():
        return of_hugging_face
    raise UserError(f"--checkpoint={path!r} is neither the workdir of a run that has saved a checkpoint nor a folder "
                    "with the config.json of a Hugging Face model.")


def main(argv) -> None:
    asked, overrides = options(argv[1:])
    request = Request(asked.max_new_tokens, asked.chunk, asked.temperature, asked.top_p).check()
    text = _prompt(asked.prompt_file)
    tokenizer, load = _kind(asked.checkpoint)(asked.checkpoint, asked.tokenizer, overrides)
    prompt = np.concatenate([[tokenizer.bos], tokenizer.encode(text, asked.prompt_file)]).astype(np.int32)
    mesh, graph, params = load()

    import jax

    from longctx.generation import api
    request = dataclasses.replace(request, stop=(tokenizer.eos,))
    with jax.set_mesh(mesh):
        steps = api.stream(graph, params, [prompt], key=jax.random.key(asked.seed), **dataclasses.asdict(request))
        for piece in text_as_it_comes(tokenizer, (int(chosen[0]) for chosen in steps)):
            print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    configs.run(main)
