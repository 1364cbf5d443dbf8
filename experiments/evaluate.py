"""Measure what the context is worth to a checkpoint: loss by position, gain from context, passkey retrieval.

    python -m experiments.evaluate --workdir DIR [--config.eval.lengths="(512, 16384)"]
                                   [--config.model.rope.scaling=yarn ...]
    python -m experiments.evaluate --config.init_from=MODEL [--workdir DIR] [--adapter FOLDER]
                                   [--config.data.path=TEXT] [...]
    python -m experiments.evaluate --checkpoint DIR|MODEL --suite ruler --lengths 4096,8192
    python -m experiments.evaluate --compare DIR DIR ... [--out FILE.png]

The first starts from the configuration of the run in the workdir, with the RoPE of the stage that its newest checkpoint
was made in as model.rope; `--config.x=y` changes it. The second reads a model of Hugging Face (a folder, a .gguf file,
an id in the hub's cache) as it is, without a run, at 512, 2048 and 8192 tokens as far as it was trained for them, on a
text of yours or Python's own library; --adapter adds a low-rank adapter in peft's format. Both write evals.json and
draw the report.

--suite asks questions about generated texts instead (suites and tasks by name, with commas: longctx/evals/questions):
it is short for --config.eval.tasks="('questions',)" and eval.questions, as --lengths is for eval.lengths, and
--checkpoint for the --workdir of a run or the --config.init_from of another model. Each text that was asked is a line
of samples.jsonl, from which the same command goes on. --compare draws the questions of several workdirs in one picture.
"""

import dataclasses
import functools
import pathlib
import time

from experiments.run import answers, checks, command, models, processes
from experiments.settings import config as configs
from experiments.settings import console, places
from longctx.config import Config, RopeConfig
from longctx.errors import UserError
from longctx.evals.api import EVALS
from longctx.evals.questions.api import named as questions_named
from longctx.hf.rope import stretched

LENGTHS = 512, 2048, 8192  # tokens at which a model is measured, as far as it is made for them


def lengths(config: Config) -> tuple[int, ...]:
    """The context lengths to measure: eval.lengths, or those of the curriculum and twice the longest."""
    trained = sorted({stage.seq_len for stage in config.stages})
    return tuple(config.eval.lengths) or (*trained, 2 * trained[-1])


def certain_lengths(config: Config) -> tuple[int, ...]:
    """The lengths of rows that are read however short the held-out documents are; none where every task reads those."""
    return lengths(config) if any(EVALS[name].fills_every_length for name in config.eval.tasks) else ()


def run(config: Config, mesh, params, rope: RopeConfig, documents, tokenizer, workdir, weights: dict) -> dict:
    """Every task of config.eval on held-out documents; process 0 writes workdir/evals.json and draws the report.

    weights: what tells them from others, see answers.kept.
    """
    import jax

    from experiments import report
    from experiments.run.metrics import dump
    from longctx.evals.predictor import predictor

    active = not jax.process_index()
    params = jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind("device")), params)
    predict, results = predictor(config, mesh, params, rope), {}
    trained, headlines = max(stage.seq_len for stage in config.stages), []
    if beyond := too_long(rope, lengths(config)):
        print(beyond, flush=True)
    for name in config.eval.tasks:
        start = time.monotonic()
        print(f"evaluating {name}, compiling first for each length that is new ...", flush=True)
        more = {}
        if EVALS[name].by_sample:
            samples, notes = answers.kept(name, config, rope, workdir, weights, active)
            processes.check_same(samples.count, f"--workdir={str(workdir)!r} is not one folder on all hosts.")
            say = functools.partial(print, flush=True)
            for note in notes:
                say(note)
            more = {"samples": samples, "say": say}
        asked = predict, documents, tokenizer, config.eval, lengths(config), config.seed
        results[name] = EVALS[name].run(*asked, **more)
        found = EVALS[name].finding(results[name], trained)
        headlines.append(EVALS[name].headline(results[name], trained))
        print(f"evaluated {name} in {time.monotonic() - start:.1f} s: {found}", flush=True)
    if active:
        (workdir / "evals.json").write_text(dump(results) + "\n")
        print(", ".join(filter(None, [*headlines, f"report: {report.write(workdir)}"])), flush=True)
    return results


def main(argv) -> None:
    if any(arg.split("=")[0] == "--compare" for arg in argv[1:]):
        return compare(argv)
    argv = spelled_out(argv)
    if models.named(argv) is not None:
        return of_model(argv)
    config, workdir = configs.from_workdir(argv)
    corpora, tokenizer, *_ = checks.check(config)

    from experiments.planner import price
    from experiments.run.records import load_params

    mesh = processes.start(config.mesh)
    price.check(config, mesh, lengths=certain_lengths(config))
    step, params = load_params(config, workdir, mesh)
    for line in (f"{config.name}: step {step}", *corpora.notes):
        print(line, flush=True)
    weights = answers.weights_of_run(workdir)
    run(config, mesh, params, config.model.rope, corpora.held_out, tokenizer, workdir, weights)


def too_long(rope: RopeConfig, measured: tuple[int, ...]) -> str:
    """What to say of lengths beyond those that a model is made for by its RoPE; "" where there are none."""
    made, longest = stretched(rope), max(measured)
    if longest <= made or rope.scaling != "none" or not rope.original_length:
        return ""
    return (
        f"{longest:,} tokens are more than the {made:,} that the model is made for: --config.model.rope.scaling=yarn "
        f"--config.model.rope.factor={-(-longest // made)} would stretch it"
    )


def spelled_out(argv: list[str]) -> list[str]:
    """The command line with the settings that the options of SHORT stand for.

    Raises UserError for an unknown suite or task, and for lengths that are no whole numbers.
    """
    words, rest = iter(argv[1:]), []
    for word in words:
        name, given, value = word.partition("=")
        rest += SHORT[name](value if given else next(words, "")) if name in SHORT else [word]
    return [argv[0], *rest]


def _of_suite(value: str) -> list[str]:
    suites = tuple(value.split(","))
    questions_named(suites, "--suite")
    return ["--config.eval.tasks=('questions',)", f"--config.eval.questions={suites}"]


def _of_lengths(value: str) -> list[str]:
    return [f"--config.eval.lengths={tuple(console.whole_numbers('--lengths', value))}"]


def _of_checkpoint(value: str) -> list[str]:
    places.check_local("--checkpoint", value)
    return [f"{'--config.init_from' if configs.stored(value) is None else '--workdir'}={value}"]


SHORT = {"--suite": _of_suite, "--lengths": _of_lengths, "--checkpoint": _of_checkpoint}


def compare(argv: list[str]) -> None:
    """Draws what several workdirs say of questions, and prints it as a table."""
    parser = console.Parser("Compares the questions that several runs or models were asked.")
    parser.add_argument("--compare", nargs="+", metavar="DIR", required=True, help="workdirs that were evaluated")
    parser.add_argument("--out", default="compare.png", metavar="FILE.png", help="the picture (default: %(default)s)")
    options = parser.parse_args(argv[1:])

    from experiments.pictures import questions as figures
    from experiments.run.written import load

    runs = {}
    for folder in options.compare:
        evals = load(folder).evals
        if "questions" not in evals:
            raise UserError(
                f"--compare {folder}: no questions were asked there; experiments.evaluate --suite asks them."
            )
        runs[folder] = evals["questions"]
    print(figures.table(runs))
    figures.compare(runs).savefig(options.out, dpi=200)
    print(pathlib.Path(options.out))


def of_model(argv: list[str]) -> None:
    """Evaluates the model of Hugging Face that a command line names."""
    named = models.of_command_line(argv, __doc__.splitlines()[0], more=("eval", "data"))
    workdir = named.workdir
    places.check_folder("--workdir", workdir)
    if configs.stored(workdir) is not None:
        raise UserError(f"--workdir={workdir} is the folder of a training run: name another one for this model.")
    config = _measured(named.config)
    corpora, tokenizer, *_ = checks.check(config)

    from experiments.planner import price
    from experiments.run.records import write_records

    mesh = processes.start(config.mesh)
    price.check(config, mesh, lengths=certain_lengths(config))
    with processes.hold(workdir):
        params = named.load(mesh)
        write_records(config, workdir, mesh)
        for line in (f"{config.name}: as it is, at {', '.join(map(str, lengths(config)))} tokens", *corpora.notes):
            print(line, flush=True)
        weights = {"files": named.weights}
        run(config, mesh, params, config.model.rope, corpora.held_out, tokenizer, workdir, weights)


def _measured(config):
    """The settings of a model that was trained elsewhere: a stage as long as it is made for, and lengths to measure."""
    trained = stretched(config.model.rope)
    stages = (dataclasses.replace(config.stages[0], seq_len=trained, steps=1),)
    measured = config.eval.lengths or tuple(length for length in LENGTHS if length <= trained) or (trained,)
    return dataclasses.replace(
        config,
        stages=stages,
        batch_tokens=trained * config.mesh.data * config.mesh.fsdp,
        eval=dataclasses.replace(config.eval, lengths=measured),
    )


if __name__ == "__main__":
    command.run(main)
