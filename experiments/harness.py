"""Ask a model the tasks of lm-evaluation-harness, or write our generated questions as tasks for it.

    pip install -e '.[evals]'
    python -m experiments.harness (--workdir DIR | --config.init_from=MODEL [--adapter FOLDER]) --tasks NAME,...
                                  --out FILE.json [--include FOLDER] [--limit N] [--fewshot N] [--length MAX] [--cut]
                                  [--chat] [--config.model.rope.scaling=yarn ...]
    python -m experiments.harness --export FOLDER --questions quick|ruler|NAME,... --lengths 4096,8192 --samples N
                                  --tokenizer MODEL|bytes

The first asks a run, or a model of Hugging Face, as experiments.evaluate takes them. --include has tasks (.yaml) beside
those of lm_eval. A request of more than --length tokens (default: what the model is made for) is refused; with --cut
it loses its beginning, and such requests are counted. --chat writes requests by the model's chat template.

The second needs neither a model nor lm_eval: for each task of longctx/evals/questions it writes a .jsonl and a .yaml,
and beside them utils.py, which scores as longctx does. `lm-eval run --include_path FOLDER --tasks longctx ...` then
asks any model that lm_eval knows.
"""

import pathlib
import sys

from experiments.run import command
from experiments.settings import console, environment, extras, places
from experiments.settings.console import Parser
from longctx.errors import UserError

OF_EXPORT = "questions", "lengths", "samples", "tokenizer"  # options that go with --export


def arguments(argv: list[str]):
    """(the options of this command, the --config.field=value among the arguments)."""
    parser = Parser(__doc__)
    parser.add_argument("--workdir", metavar="DIR", help="the folder of a run")
    parser.add_argument("--adapter", metavar="FOLDER", help="a low-rank adapter of the model, in peft's format")
    parser.add_argument("--tasks", metavar="NAME,...", help="tasks, groups or tags of lm_eval")
    parser.add_argument("--include", metavar="FOLDER", help="more tasks, .yaml files as lm_eval has them")
    parser.add_argument("--limit", metavar="N", type=int, help="samples of a task, the first ones (default: all)")
    parser.add_argument("--fewshot", metavar="N", type=int, help="examples before a sample (default: as its task says)")
    parser.add_argument("--length", metavar="MAX", type=int, help="tokens of a row (default: what the model is for)")
    parser.add_argument("--cut", action="store_true", help="cut the beginning of longer requests, do not refuse them")
    parser.add_argument("--chat", action="store_true", help="write requests by the model's chat template")
    parser.add_argument("--out", metavar="FILE", help="the results, JSON")
    parser.add_argument("--export", metavar="FOLDER", help="write our questions as tasks, ask nothing")
    parser.add_argument("--questions", metavar="NAME,...", help="of --export: tasks or suites of longctx")
    parser.add_argument("--lengths", metavar="N,...", help="of --export: tokens of prompt and answer")
    parser.add_argument("--samples", metavar="N", type=int, help="of --export: texts of a task and length")
    parser.add_argument("--tokenizer", metavar="MODEL", help="of --export: what tokens are counted by")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of --export (default: %(default)s)")
    return parser.parse_with_settings(argv, texts=("tasks", "questions"))


def _require(options, names, why: str) -> None:
    for name in names:
        if getattr(options, name) is None:
            raise UserError(f"--{name} is missing; {why}.")


def _check(options) -> None:
    """Raises UserError for options that are missing, or no numbers that can be."""
    if options.export is not None:
        _require(options, OF_EXPORT, "--export takes --questions, --lengths, --samples and --tokenizer")
    else:
        _require(options, ("tasks", "out"), "a model is asked --tasks, and the results are written to --out")
        given = [name for name in OF_EXPORT if getattr(options, name) is not None]
        if given:
            raise UserError(f"--{given[0]} is for --export FOLDER.")
    for name, least in (("limit", 1), ("fewshot", 0), ("length", 2), ("samples", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name}={value} must be at least {least}.")


def export(options) -> None:
    """Writes the tasks that --export asks for."""
    from experiments.evaluation_harness import export as exporter
    from longctx.data import tokenizers
    from longctx.hf import sources

    lengths = console.whole_numbers("--lengths", options.lengths)
    places.check_folder("--export", options.export)
    named = options.tokenizer
    file = named == "bytes" or named.endswith(".json")
    tokenizer = tokenizers.load(named if file else str(sources.folder(named, "--tokenizer")))
    made = exporter.Made(tokenizer, lengths, options.samples, options.seed)
    for line in exporter.write(options.questions.split(","), made, options.export):
        print(line, flush=True)


def ask(options, settings: list[str]) -> None:
    """Asks the model, prints the table of results and writes them to --out."""
    extras.need("experiments.harness", extras.missing("lm_eval"))
    if environment.count() > 1:
        raise UserError(
            f"lm_eval asks in one process, and the environment says {environment.count()}: start it once, on one host, "
            "with JAX_NUM_PROCESSES=1."
        )
    places.check_file("--out", options.out)
    if options.include and not pathlib.Path(options.include).is_dir():
        raise UserError(f"--include={options.include!r} is no folder; give that of the .yaml files of tasks.")

    from experiments.evaluation_harness import language_model, opened
    from experiments.evaluation_harness.answers import Answers
    from experiments.evaluation_harness.requests import Reader
    from longctx.data import chat

    source = opened.opened(settings, options.workdir, options.adapter)
    template = chat.load(source.folder) if options.chat else None
    chosen = language_model.Chosen(options.tasks.split(","), options.include, options.limit, options.fewshot)
    manager = language_model.tasks(chosen)
    length = options.length or source.longest
    reader = Reader(source.tokenizer, source.config.model.vocab_size, length, options.cut)
    answers = Answers(source.load(), reader, source.ends, template)
    results = language_model.evaluate(answers, source.name, manager, chosen)

    from experiments.run import records

    more = {"model": source.name, "length": length, "cut": answers.cut, "chat": options.chat}
    table = language_model.write(results, more | records.versions(answers.model.mesh), options.out)
    if answers.cut:
        print(f"{answers.cut:,} requests were longer than {length:,} tokens and lost their beginning", file=sys.stderr)
    print(table, flush=True)


def main(argv) -> None:
    options, settings = arguments(argv[1:])
    _check(options)
    if options.export is not None:
        if settings:
            raise UserError(f"{settings[0]} has no effect on --export, which reads no model.")
        export(options)
    else:
        ask(options, settings)


if __name__ == "__main__":
    command.run(main)
