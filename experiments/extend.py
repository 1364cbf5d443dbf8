"""Make a model's context longer and see what works: train a tiny model that recalls, then read far longer rows.

    python -m experiments.extend --config configs/recall.py[:seed=N] [--config.extend.x=y ...] [--workdir DIR]
    python -m experiments.extend --config.init_from=FOLDER [--config.model.rope.x=y ...] [--workdir DIR]

Prints the share of values recalled by position method and length, of the parameters as they are and after a short
tuning, and writes extend.json (the same by depth, every number) and extend.png into the workdir. A model of Hugging
Face (init_from) is not trained: it is asked for passkeys.
"""

import dataclasses
import functools
import operator
import time
from collections.abc import Callable
from typing import NamedTuple

from experiments.run import checks, command, processes
from experiments.settings import config as configs
from experiments.settings import places
from experiments.settings.tree import Settings
from longctx.config import ModelConfig, StageConfig


class Task(NamedTuple):
    """A task that models are compared by.

    what: its name in a sentence. trained: the trained length in tokens. chance: the accuracy of guessing.
    cells: (predictor, length) -> for each depth {"asked": values asked for, "right": values answered}.
    """

    what: str
    trained: int
    chance: float
    cells: Callable[..., list[dict]]


def main(argv) -> None:
    config, workdir = configs.from_command_line(argv)
    places.check_folder("--workdir", workdir)
    task = (
        _passkeys(config, *checks.check_extend_checkpoint(config))
        if config.init_from
        else _recall(config, checks.check_extend(config)[-1].seq_len)
    )

    import jax

    from experiments import train
    from experiments.bench.harness import record
    from experiments.pictures import extension as figures
    from experiments.planner import price
    from experiments.run.metrics import dump
    from longctx.data import curriculum

    mesh = processes.start(config.mesh)
    config = _with_lengths(config, task.trained)
    price.check(config, mesh, () if config.init_from else curriculum.plan(config), config.extend.lengths)
    params, training = (train.start_from(config, mesh), {}) if config.init_from else trained(config, mesh)
    records = [_record(config, mesh, params, "as trained", name, task) for name in config.extend.methods]
    records += [_tuned(config, mesh, params, name, task) for name in config.extend.tunings]
    result = {
        "what": f"{task.what} beyond the trained length",
        "units": {
            "lengths": "tokens",
            "accuracy": "share of the values asked for, over all depths",
            "cells": "by length, then by depth from the start of the haystack: values asked for, and right",
        },
        "environment": record.environment(),
        "seed": config.seed,
        "trained_length": task.trained,
        "lengths": list(config.extend.lengths),
        "chance": task.chance,
        "training": training,
        "records": records,
        "config": dataclasses.asdict(config),
    }
    if jax.process_index():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "extend.json").write_text(dump(result) + "\n")
    figures.extension(result).savefig(workdir / "extend.png", dpi=200)
    print(f"\n{table(result)}\n\n{workdir / 'extend.json'}, {workdir / 'extend.png'}", flush=True)


def _recall(config: Settings, trained: int) -> Task:
    from longctx.evals.tasks import recall

    extend = config.extend
    return Task(
        "associative recall",
        trained,
        1 / config.recall.value_tokens,
        lambda predictor, length: recall.by_depth(
            predictor, config.recall, length, extend.rows, extend.depths, config.seed
        ),
    )


def _passkeys(config: Settings, trained: int, tokenizer) -> Task:
    """A prompt is right where all digits are."""
    from longctx.evals.tasks import passkey

    extend = config.extend
    samples = -(-extend.rows // extend.depths)
    return Task(
        "passkeys found",
        trained,
        0.0,
        lambda predictor, length: passkey.by_depth(predictor, tokenizer, length, samples, extend.depths, config.seed),
    )


def trained(config: Settings, mesh, params=None) -> tuple[dict, dict]:
    """Trains on the recall task through all stages of the config, from `params` or from fresh parameters.

    Returns (parameters, how it went: steps, seconds of compiling and of running, loss of the last batch in nats per
    value).
    """
    import jax
    import jax.numpy as jnp

    from experiments.run import batches, loop
    from longctx import optim, training
    from longctx.data import curriculum
    from longctx.data.generated import recall

    stages = curriculum.plan(config)
    rate = optim.learning_rate(config.optim, stages)
    params = params and jax.tree.map(jnp.copy, params)  # a step takes its state's memory
    state = training.init_state(config, mesh, params)
    compile_s = run_s = 0.0
    for stage in stages:
        start = time.monotonic()
        print(f"compiling a step at length {stage.seq_len:,} ...", flush=True)
        step = training.compile_step(config, rate, stage, mesh)
        compiled = time.monotonic()
        stream = batches.of_rows(config, mesh, recall.RecallRows(config.recall, stage.seq_len, config.seed), stage)
        numbers, last = range(stage.first_step, stage.end_step), functools.partial(operator.eq, stage.end_step)
        for taken in loop.take(step, stream, state, mesh, numbers, last):
            state = taken.state
        loss = taken.metrics[-1]["loss"].item()
        stream.close()
        compile_s, run_s = compile_s + compiled - start, run_s + time.monotonic() - compiled
        print(
            f"{stage.steps} steps of {stage.batch_tokens:,} tokens at length {stage.seq_len:,}: loss {loss:.3f}, "
            f"compiled in {compiled - start:.1f} s, ran {time.monotonic() - compiled:.1f} s",
            flush=True,
        )
    return state["params"], {
        "steps": stages[-1].end_step,
        "compile_s": round(compile_s, 2),
        "run_s": round(run_s, 2),
        "loss": loss,
    }


def table(result: dict) -> str:
    """Share of the values recalled, by method and length."""
    from experiments.settings import console

    times = [f"x{length / result['trained_length']:g}" for length in result["lengths"]]
    rows = [
        (record["name"], record["how"], *(f"{share:.3f}" for share in record["accuracy"]))
        for record in result["records"]
    ]
    return console.table(("method", "parameters", *times), rows)


def _with_lengths(config: Settings, trained: int) -> Settings:
    """The config with the lengths that it leaves open."""
    lengths = config.extend.lengths or tuple(trained * times for times in (1, 2, 4, 8, 16))
    tune_length = config.extend.tune_length or 8 * trained
    return dataclasses.replace(
        config, extend=dataclasses.replace(config.extend, lengths=lengths, tune_length=tune_length)
    )


def _tuned(config: Settings, mesh, params, name: str, task: Task) -> dict:
    """The record of a short tuning for extend.tune_length: the settings are those for it, at every length."""
    from longctx.positions.extension import EXTENSIONS, TUNINGS

    tuning, extend = TUNINGS[name], config.extend
    seq_len = extend.tune_length if tuning.augment == "none" else task.trained
    stage = StageConfig(
        seq_len=seq_len,
        steps=extend.tune_steps,
        augment=tuning.augment,
        batch_tokens=max(seq_len, config.stages[-1].batch_tokens),
        augment_length=extend.tune_length,
    )
    model = EXTENSIONS[tuning.trained](config.model, task.trained, extend.tune_length)
    optim = dataclasses.replace(config.optim, learning_rate=extend.tune_learning_rate)
    print(f"tuning {name}: ", end="")
    tuned, training = trained(dataclasses.replace(config, stages=(stage,), optim=optim, model=model), mesh, params)
    at_target = lambda model, L, T: EXTENSIONS[tuning.read](model, L, extend.tune_length)
    return _read(config, mesh, tuned, at_target, task) | {
        "name": name,
        "how": f"tuned for {extend.tune_length:,}",
        "training": training,
    }


def _record(config: Settings, mesh, params, how: str, name: str, task: Task) -> dict:
    from longctx.positions.extension import EXTENSIONS

    lengths = ", ".join(f"{length:,}" for length in config.extend.lengths)
    print(f"reading {lengths} tokens with {name}, each compiled first ...", flush=True)
    return _read(config, mesh, params, EXTENSIONS[name], task) | {"name": name, "how": how}


def _read(config: Settings, mesh, params, change, task: Task) -> dict:
    """The accuracy of the parameters at every length, its settings changed by `change` of positions.extension."""
    from longctx.evals.predictor import predictor

    start, cells, predictors = time.monotonic(), [], {}
    for length in config.extend.lengths:
        model: ModelConfig = change(config.model, task.trained, length)
        if model not in predictors:
            predictors[model] = predictor(dataclasses.replace(config, model=model), mesh, params, model.rope)
        cells.append(task.cells(predictors[model], length))
    total = lambda parts, what: sum(part[what] for part in parts)
    return {
        "accuracy": [total(parts, "right") / max(total(parts, "asked"), 1) for parts in cells],
        "cells": cells,
        "seconds": round(time.monotonic() - start, 2),
    }


if __name__ == "__main__":
    command.run(main)
