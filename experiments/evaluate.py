"""Measure what the context is worth to a checkpoint: loss by position, gain from context, passkey retrieval.

    python -m experiments.evaluate --workdir DIR [--config.eval.lengths="(512, 16384)"]
                                   [--config.model.rope.scaling=yarn ...]

Starts from the configuration of the run in the workdir, with the RoPE of the stage that its newest checkpoint was made
in as model.rope; `--config.x=y` changes it. Writes evals.json and draws the report again.
"""

import time

from experiments.run import checks, command, processes
from experiments.settings import config as configs
from longctx.config import Config, RopeConfig
from longctx.evals.api import EVALS


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
    for name in config.eval.tasks:
        start = time.monotonic()
        results[name] = EVALS[name].run(predict, documents, tokenizer, config.eval, lengths(config), config.seed)
        print(f"evaluated {name} in {time.monotonic() - start:.1f} s", flush=True)
    if jax.process_index() == 0:
        (workdir / "evals.json").write_text(dump(results) + "\n")
        print(f"report: {report.write(workdir)}", flush=True)
    return results


def main(argv) -> None:
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


if __name__ == "__main__":
    command.run(main)
