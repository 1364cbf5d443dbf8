"""Make a model's context longer and see what works: every position method, at length after length.

    python -m experiments.extend --config configs/recall.py[:seed=N] [--config.extend.x=y ...] [--workdir DIR]
    python -m experiments.extend --config.init_from=MODEL [--adapter FOLDER] [--config.data.path=TEXT]
                                 [--config.extend.x=y ...]

The first trains a tiny model that recalls, and reads it as it is and after short tunings. The second reads MODEL, a
Hugging Face model (folder, .gguf, id in the hub's cache), perhaps with an adapter in peft's format, or the workdir of a
run: it is asked for passkeys and, where data.path names a text, measured by its loss on the held-out part.

Lengths come shortest first, from one inside the trained length on. The first rows give an estimate of all the time;
every few rows print a line and are kept in extend.jsonl of the workdir, where the same command goes on, also with more
methods, lengths or rows. At the end there are a table, extend.json and a picture for each task.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from experiments.run import checks, command, comparison, models, processes, recall
from experiments.run.comparison import AS_TRAINED, Cell
from experiments.settings import config as configs
from experiments.settings import console, places
from experiments.settings.tree import Settings
from longctx.config import DataConfig, StageConfig
from longctx.hf.rope import stretched
from longctx.positions.extension import TUNINGS, at

DESCRIPTION = "Reads a model by every position method."


class Subject(NamedTuple):
    """A model whose context is made longer.

    Attributes:
      config: its settings, extend.lengths and extend.tune_length filled in.
      trained: the length that it is trained for, in tokens.
      tasks: by name, each a longctx.evals.by_row.RowTask.
      load: mesh -> (parameters, how a training of them went).
      identity: what tells its weights from others.
      stages: of that training.
    """

    config: Settings
    trained: int
    tasks: dict
    load: Callable
    identity: dict
    stages: tuple = ()


def main(argv) -> None:
    path = models.named(argv)
    subject, workdir = _trained_here(argv) if path is None else _given(argv, path)
    config = subject.config
    places.check_folder("--workdir", workdir)

    import jax

    from experiments.planner import price

    mesh = processes.start(config.mesh)
    price.check(config, mesh, subject.stages, config.extend.lengths)
    with processes.hold(workdir):
        _compare(subject, mesh, workdir, active=not jax.process_index())


# ---- models ---------------------------------------------------------------------------------------------------------


def _trained_here(argv) -> tuple[Subject, pathlib.Path]:
    """(a model that a config file trains to recall, the workdir)."""
    from longctx.evals.tasks.recall import Recall

    config, workdir = configs.from_command_line(argv)
    stages = checks.check_extend(config)
    config, extend = _with_lengths(config, stages[-1].seq_len), config.extend
    tasks = {"recall": Recall(config.recall, extend.rows, extend.depths, config.seed)}
    load = functools.partial(recall.trained, config)
    return Subject(config, stages[-1].seq_len, tasks, load, {}, stages), workdir


def _given(argv, path: str) -> tuple[Subject, pathlib.Path]:
    """(the model of Hugging Face, or the run, that `path` names, the workdir)."""
    if configs.stored(path) is not None:
        config, length, load, identity, workdir = _of_run(argv, path)
    else:
        named = models.of_command_line(argv, DESCRIPTION, more=("extend", "eval", "data", "seed"))
        config, load, workdir = named.config, named.load, named.workdir
        length, identity = stretched(config.model.rope), {"weights": named.weights}
    tasks = config.extend.tasks or _usual(config)
    config = dataclasses.replace(config, extend=dataclasses.replace(config.extend, tasks=tasks))
    tokenizer, held_out = checks.check_extend_given(config, length)
    config = _with_lengths(config, length)
    made = {name: comparison.TASKS[name](config, tokenizer, held_out) for name in tasks}
    return Subject(config, length, made, lambda mesh: (load(mesh), {}), identity), workdir


def _of_run(argv, path: str) -> tuple:
    """(settings, trained length, mesh -> parameters, identity, workdir) of a run."""
    from experiments.run import answers
    from longctx.checkpoints import identity

    options, others = models.options(argv, DESCRIPTION)
    models.require_no_adapter(options.adapter, path)
    config, run = configs.from_workdir([argv[0], "--workdir", path, *others])
    checkpoints = run / configs.CHECKPOINTS
    stage = (identity.peek(checkpoints) or {"stage": 0})["stage"]
    length = max(before.seq_len for before in config.stages[: stage + 1])

    def load(mesh):
        from experiments.run.records import load_params

        return load_params(config, run, mesh)[1]

    said = answers.weights_of_run(run)
    workdir = pathlib.Path(options.workdir or f"runs/extend-{config.name}")
    return config, length, load, said, workdir


def _usual(config: Settings) -> tuple[str, ...]:
    """The tasks of a model that is given: its text is measured where the settings name one."""
    return ("passkey",) if config.data.path == DataConfig.path else ("passkey", "loss")


def _with_lengths(config: Settings, trained: int) -> Settings:
    """The config with the lengths that it leaves open, and one inside the trained length among them."""
    lengths = config.extend.lengths or tuple(trained * times for times in (1, 2, 4, 8, 16))
    lengths = tuple(sorted({*lengths, *(() if min(lengths) <= trained else (trained,))}))
    tune_length = config.extend.tune_length or (8 * trained if config.extend.tunings else 0)
    return dataclasses.replace(
        config, extend=dataclasses.replace(config.extend, lengths=lengths, tune_length=tune_length)
    )


# ---- reading --------------------------------------------------------------------------------------------------------


def _compare(subject: Subject, mesh, workdir: pathlib.Path, active: bool) -> None:
    """Reads what a workdir has no rows of, and writes the results there, if `active`."""
    from experiments.run.reading import Reader

    said = {"settings": dataclasses.asdict(subject.config), "model": subject.identity}
    records = comparison.Records(workdir / comparison.FILE, said, active)
    reader = Reader(subject.config, mesh, subject.tasks, _groups(subject), records)
    processes.check_same(len(reader.open()), f"--workdir={str(workdir)!r} is not one folder on all hosts.")
    print(*reader.plan(), sep="\n", flush=True)
    trainings = _read_all(subject, mesh, reader, workdir)
    if active:
        _write(subject, reader, trainings, workdir)


def _groups(subject: Subject) -> list:
    """Groups of ways that share parameters: those as trained, then every tuning by itself."""
    from experiments.run.reading import Way

    model, length, extend = subject.config.model, subject.trained, subject.config.extend
    as_trained = [Way(name, AS_TRAINED, lambda n, name=name: at(name, model, length, n)) for name in extend.methods]
    how, target = f"tuned for {extend.tune_length:,}", extend.tune_length
    tuned = [
        Way(name, how, lambda n, name=name: at(TUNINGS[name].read, model, length, target)) for name in extend.tunings
    ]
    return [group for group in (as_trained, *([way] for way in tuned)) if group]


def _read_all(subject: Subject, mesh, reader, workdir: pathlib.Path) -> dict[str, dict]:
    """Reads what is open. Returns how trainings went: {"": of the model, name of a tuning: its own}."""
    from experiments.run import kept

    if not reader.open() and not subject.stages:
        return {}
    folder = kept.Folder(workdir / "parameters", subject.config, mesh, reader.records.begun)
    params, of_model = folder.kept("trained", lambda: subject.load(mesh)) if subject.stages else subject.load(mesh)
    trainings = {"": of_model}
    for group in reader.groups:
        own = params
        if group[0].how != AS_TRAINED:
            name = group[0].method
            own, trainings[name] = folder.kept(f"tuned-{name}", lambda name=name: _tuned(subject, mesh, params, name))
        reader.read(own, group)
    return trainings


def _tuned(subject: Subject, mesh, params, name: str) -> tuple[dict, dict]:
    """The parameters after a short tuning for extend.tune_length, and how it went."""
    config, length = subject.config, subject.trained
    tuning, extend = TUNINGS[name], config.extend
    seq_len = extend.tune_length if tuning.augment == "none" else length
    stage = StageConfig(
        seq_len=seq_len,
        steps=extend.tune_steps,
        augment=tuning.augment,
        batch_tokens=max(seq_len, config.stages[-1].batch_tokens),
        augment_length=extend.tune_length,
    )
    model = at(tuning.trained, config.model, length, extend.tune_length)
    optim = dataclasses.replace(config.optim, learning_rate=extend.tune_learning_rate)
    print(f"tuning {name}: ", end="")
    return recall.trained(dataclasses.replace(config, stages=(stage,), optim=optim, model=model), mesh, params)


# ---- results --------------------------------------------------------------------------------------------------------


def _write(subject: Subject, reader, trainings: dict[str, dict], workdir: pathlib.Path) -> None:
    """Writes extend.json and a picture for each task, and prints a table for each."""
    from experiments.bench.harness import record
    from experiments.pictures import extension as figures
    from experiments.run.metrics import dump

    config = subject.config
    tasks = [_results(subject, reader, name, trainings) for name in subject.tasks]
    result = {
        "what": "position methods beyond the trained length",
        "command": record.command(),
        "environment": record.environment(),
        "seed": config.seed,
        "trained_length": subject.trained,
        "training": trainings.get("", {}),
        "tasks": tasks,
        "config": dataclasses.asdict(config),
    }
    (workdir / "extend.json").write_text(dump(result) + "\n")
    written = [workdir / "extend.json"]
    for task in tasks:
        print(f"\n{task['what']}:\n\n{table(task, subject.trained)}\n")
        written.append(workdir / f"extend-{task['name']}.png")
        figures.extension(task).savefig(written[-1], dpi=200)
    print(*written, sep=", ", flush=True)


def _results(subject: Subject, reader, name: str, trainings: dict[str, dict]) -> dict:
    """All that is known of a task: by method and length the value, its 95% interval and the counts; null where a length
    has no rows."""
    task, lengths, records = subject.tasks[name], subject.config.extend.lengths, []
    for way in [way for group in reader.groups for way in group]:
        cells = [Cell(name, way.method, way.how, length) for length in lengths]
        there = [cell if cell in reader.records.parts else None for cell in cells]
        found = [cell and reader.records.summary(cell, task)._asdict() for cell in there]
        records.append(
            {"name": way.method, "how": way.how}
            | {field: [summary and summary[field] for summary in found] for field in ("value", "low", "high")}
            | {
                "cells": [cell and reader.records.counts(cell, task) for cell in there],
                "seconds": [reader.records.seconds(cell) for cell in cells],
                "training": {} if way.how == AS_TRAINED else trainings.get(way.method, {}),
            }
        )
    units = {"lengths": "tokens", "low, high": "95% interval", "cells": "counts by length"}
    return {"name": name, "what": task.what, "chance": task.chance, "lengths": list(lengths), "units": units} | {
        "records": records
    }


def table(task: dict, trained: int) -> str:
    """The values of a task, by method and length."""
    times = [f"x{length / trained:g}" for length in task["lengths"]]
    rows = [
        (record["name"], record["how"], *("-" if value is None else f"{value:.3f}" for value in record["value"]))
        for record in task["records"]
    ]
    return console.table(("method", "parameters", *times), rows)


if __name__ == "__main__":
    command.run(main)
