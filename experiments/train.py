"""Train a long-context language model.

    python -m experiments.train --config FILE[:arg=value,...] [--config.x=y ...] [--workdir DIR] [--resume STEP|never]

The same command continues a run that was stopped, however it was stopped. --resume STEP goes back to that step of
experiments.checkpoints and sets later ones aside; --resume never sets all aside and starts over. Either does so at each
start, so leave it out to continue.

The workdir holds config.json, versions.json, metrics.jsonl, tensorboard/ and what else log.trackers keep there,
checkpoints/, init_from/ and tokenizer/ (config.json and tokenizer of the folders of those settings, which may go then),
and at the end evals.json, figures/ and report.html.
"""

import functools
import sys
import time

from experiments.run import checks, command, continuing, processes
from experiments.settings import config as configs
from longctx.config import Config


def start_from(config: Config, mesh) -> dict | None:
    """The parameters in config.init_from, if there is one, with the adapter in config.model.lora.adapter."""
    if not config.init_from:
        return None
    from longctx import hf
    from longctx.hf import adapter

    folder = config.model.lora.adapter or None
    model = hf.load(config.init_from, mesh=mesh, dtype=config.model.param_dtype, adapter=folder)
    if folder:
        adapter.check_same(config.model, model.config.lora)
    return model.params


def main(argv) -> None:
    started = time.monotonic()
    resume, argv = continuing.asked(argv)
    config, workdir, notes = configs.for_training(argv)
    checked = checks.check(configs.stand_in(config), workdir, resume)

    # ---- what takes seconds to import waits until the settings are known to be good ---------------------------------
    import jax

    from experiments import evaluate, planner
    from experiments.planner import price
    from experiments.run import answers, batches, records
    from experiments.run.held_out import HeldOut
    from experiments.run.loop import Loop
    from experiments.run.metrics import Metrics, Unrecorded
    from experiments.run.progress import progress
    from experiments.run.signals import StopRequest
    from longctx import trained, training
    from longctx.checkpoints.checkpointer import Checkpointer
    from longctx.data import texts, tokenizers

    # ---- devices ----------------------------------------------------------------------------------------------------
    mesh = processes.start(config.mesh)
    price.check(configs.stand_in(config), mesh, checked.stages, evaluate.certain_lengths(config))

    # ---- data -------------------------------------------------------------------------------------------------------
    corpora, tokenizer, stages, changed = checked
    held_out = corpora.held_out
    text = texts.tokenize(corpora, config.data, tokenizer)
    processes.check_same(text.fingerprint, f"data.path={config.data.path!r} holds other text on another host.")
    config = planner.settle(config, mesh, text, tokenizer)
    streams = functools.partial(batches.of_text, config, mesh, text, tokenizer)  # of a stage

    # ---- state: fresh, or the newest sound checkpoint ---------------------------------------------------------------
    folder, keep = workdir / configs.CHECKPOINTS, config.checkpoint
    again = "the same command" if resume == continuing.NEWEST else "the same command, without --resume,"
    with Checkpointer(folder, keep.keep, keep.keep_every) as checkpoints, StopRequest(again) as stop:
        if resume != continuing.NEWEST:
            checkpoints.go_back(resume.step)
        left_out = *corpora.notes, *text.notes
        records.write_records(
            config, workdir, mesh, left_out
        )  # no earlier: a run that is here holds its checkpoints' lock
        restored = checkpoints.restore_latest(training.abstract_state(config, mesh))
        state = restored.state if restored else training.init_state(config, mesh, start_from(config, mesh))
        read = corpora.read
        special = any(document.special for document in read)
        dropped = tokenizers.losses(tokenizer, [document.text for document in read], special)
        line = records.describe(config, mesh, state, text, held_out)
        said = *notes, *changed, *left_out, *dropped, *checkpoints.notes
        print(line, *said, sep="\n", flush=True)

        # ---- stages -------------------------------------------------------------------------------------------------
        bar = progress(sum(stage.steps * stage.batch_tokens for stage in stages))
        recorder, step = Unrecorded if jax.process_index() else Metrics, restored.step if restored else None
        with bar, recorder(workdir, step, config, bar.note) as metrics:
            noted = len(checkpoints.notes)
            measured = config.eval.every_steps > 0
            watched = HeldOut(config, mesh, stages, held_out, tokenizer, bar.note) if measured else None
            loop = Loop(
                config, mesh, stages, streams, checkpoints, restored, metrics, bar, stop, started, noted, watched
            )
            loop.continue_from()
            to_go = [stage for stage in stages if int(state["step"]) < stage.end_step]
            loop.compile(to_go)
            for stage in to_go:
                if not stop.asked:
                    state = loop.train(stage, state)
        stop.first = "the checkpoint is written"
        checkpoints.wait()
        if int(state["step"]) < stages[-1].end_step:
            print(f"stopped at step {int(state['step'])}, with all of it saved; {again} continues", flush=True)
            sys.exit(processes.stopped_code())
        stop.leave_at_once()

        # ---- evaluation and report ----------------------------------------------------------------------------------
        params = trained.measured(state)
        evaluate.run(
            config, mesh, params, stages[-1].rope, held_out, tokenizer, workdir, answers.weights_of_run(workdir)
        )


if __name__ == "__main__":
    command.run(main)
