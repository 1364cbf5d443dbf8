"""Measure what the context is worth to a checkpoint: loss by position, gain from context, passkey retrieval.

    python -m experiments.evaluate --workdir DIR [--config.eval.lengths="(512, 16384)"]
                                   [--config.model.rope.scaling=yarn ...]
    python -m experiments.evaluate --config.init_from=MODEL [--workdir DIR] [--adapter FOLDER]
                                   [--config.data.path=TEXT] [...]

The first starts from the configuration of the run in the workdir, with the RoPE of the stage that its newest checkpoint
was made in as model.rope; `--config.x=y` changes it. The second reads a model of Hugging Face (a folder, a .gguf file,
an id in the hub's cache) as it is, without a run, at 512, 2048 and 8192 tokens as far as it was trained for them, on a
text of yours or Python's own library; --adapter adds a low-rank adapter in peft's format. Both write evals.json and
draw the report.
"""

import dataclasses
import time

from experiments.run import checks, command, models, processes
from experiments.settings import config as configs
from experiments.settings import places
from longctx.config import Config, RopeConfig
from longctx.evals.api import EVALS
from longctx.hf.rope import stretched

LENGTHS = 512, 2048, 8192  # tokens at which a model is measured, as far as it is made for them


def lengths(config: Config) -> tuple[int, ...]:
    """The context lengths to measure: eval.lengths, or those of the curriculum and twice the longest."""
    trained = sorted({stage.seq_len for stage in config.stages})
    return tuple(config.eval.lengths) or (*trained, 2 * trained[-1])


def certain_lengths(config: Config) -> tuple[int, ...]:
    """The lengths of rows that are read however short the held-out documents are; none where every task reads those."""
    return lengths(config) if any(EVALS[name].fills_every_length for name in config.eval.tasks) else ()


def run(config: Config, mesh, params, rope: RopeConfig, documents, tokenizer, workdir) -> dict:
    """Every task of config.eval on held-out documents; process 0 writes workdir/evals.json and draws the report."""
    import jax

    from experiments import report
    from experiments.run.metrics import dump
    from longctx.evals.predictor import predictor

    params = jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind("device")), params)
    predict, results = predictor(config, mesh, params, rope), {}
    trained, headlines = max(stage.seq_len for stage in config.stages), []
    for name in config.eval.tasks:
        start = time.monotonic()
        print(f"evaluating {name}, compiling first for each length that is new ...", flush=True)
        results[name] = EVALS[name].run(predict, documents, tokenizer, config.eval, lengths(config), config.seed)
        found = EVALS[name].finding(results[name], trained)
        headlines.append(EVALS[name].headline(results[name], trained))
        print(f"evaluated {name} in {time.monotonic() - start:.1f} s: {found}", flush=True)
    if jax.process_index() == 0:
        (workdir / "evals.json").write_text(dump(results) + "\n")
        print(", ".join(filter(None, [*headlines, f"report: {report.write(workdir)}"])), flush=True)
    return results


def main(argv) -> None:
    if models.named(argv) is not None:
        return of_model(argv)
    config, workdir = configs.from_workdir(argv)
    corpus, tokenizer, _ = checks.check(config)

    from experiments.planner import price
    from experiments.run.records import load_params

    mesh = processes.start(config.mesh)
    price.check(config, mesh, lengths=certain_lengths(config))
    step, params = load_params(config, workdir, mesh)
    for line in (f"{config.name}: step {step}", *corpus.notes):
        print(line, flush=True)
    run(config, mesh, params, config.model.rope, corpus.held_out, tokenizer, workdir)


def of_model(argv: list[str]) -> None:
    """Evaluates the model of Hugging Face that a command line names."""
    named = models.of_command_line(argv, __doc__.splitlines()[0], more=("eval", "data"))
    workdir = named.workdir
    places.check_folder("--workdir", workdir)
    config = _measured(named.config)
    corpus, tokenizer, _ = checks.check(config)

    from experiments.planner import price
    from experiments.run.records import write_records

    mesh = processes.start(config.mesh)
    price.check(config, mesh, lengths=certain_lengths(config))
    with processes.hold(workdir):
        params = named.load(mesh)
        write_records(config, workdir, mesh)
        for line in (f"{config.name}: as it is, at {', '.join(map(str, lengths(config)))} tokens", *corpus.notes):
            print(line, flush=True)
        run(config, mesh, params, config.model.rope, corpus.held_out, tokenizer, workdir)


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
