"""Train a long-context language model.

    python -m experiments.train --config FILE[:arg=value,...] [--config.x=y ...] [--workdir DIR]

The same command continues a run that was stopped, however it was stopped. The workdir holds config.json, versions.json,
metrics.jsonl, tensorboard/, checkpoints/, init_from/ and tokenizer/ (config.json and tokenizer of the folders of those
settings, which may go then), and at the end evals.json, figures/ and report.html.
"""

import time

from experiments.run import checks, command, processes
from experiments.settings import config as configs
from longctx.config import Config


def start_from(config: Config, mesh) -> dict | None:
    """The parameters in config.init_from, if there is one."""
    if not config.init_from:
        return None
    from longctx import hf

    return hf.load(config.init_from, mesh=mesh, dtype=config.model.param_dtype).params


def main(argv) -> None:
    started = time.monotonic()
    config, workdir = configs.from_command_line(argv)
    checked = checks.check(configs.stand_in(config), workdir)

    # ---- what takes seconds to import waits until the settings are known to be good ---------------------------------
    import jax

    from experiments import evaluate
    from experiments.hardware import targets
    from experiments.meter.rows import of_text
    from experiments.planner import auto, price
    from experiments.run.loop import Loop
    from experiments.run.metrics import Metrics, Unrecorded
    from experiments.run.progress import progress
    from experiments.run.records import describe, write_records
    from experiments.run.signals import StopRequest
    from longctx import layouts, meshes, optim, train_step
    from longctx.checkpoints.checkpointer import Checkpointer
    from longctx.data import pipeline, rows, tokenizers
    from longctx.data.packing import finish_together
    from longctx.positions.view import reaches

    # ---- devices ----------------------------------------------------------------------------------------------------
    mesh = processes.start(config.mesh)
    price.check(configs.stand_in(config), mesh, checked.stages, evaluate.passkey_lengths(config))

    # ---- data -------------------------------------------------------------------------------------------------------
    corpus, tokenizer, stages = checked
    text = rows.tokenize(corpus.train, tokenizer)
    processes.check_same(text.fingerprint, f"data.path={config.data.path!r} holds other text on another host.")
    shard, shards = meshes.data_shard(mesh)
    config = auto.settle(config, targets.of_mesh(mesh), lambda stage: of_text(config, stage, text, corpus, tokenizer))
    write_records(config, workdir, mesh)

    def batches(stage):
        packed = pipeline.stage_rows(text, corpus.train, tokenizer, stage, config.data, config.seed)
        seen = reaches(config.model)
        work, ranks = packed.work(seen), config.mesh.data * config.mesh.fsdp
        lay_out = lambda batch: layouts.lay_out(batch, config.attention.layout, config.mesh.context_shards, seen)
        stream = pipeline.BatchStream(
            packed,
            stage,
            config.seed,
            prefetch=config.data.prefetch,
            process_index=shard,
            process_count=shards,
            transform=lay_out,
            arrange=lambda rows: finish_together(rows, work, ranks),
        )
        return stream, packed.packing.waste

    # ---- state: fresh, or the newest sound checkpoint ---------------------------------------------------------------
    with Checkpointer(workdir / configs.CHECKPOINTS, config.checkpoint.keep) as checkpoints, StopRequest() as stop:
        restored = checkpoints.restore_latest(train_step.abstract_state(config, mesh))
        state = restored.state if restored else train_step.init_state(config, mesh, start_from(config, mesh))
        dropped = tokenizers.losses(tokenizer, [document.text for document in corpus.train + corpus.held_out])
        for line in (describe(config, mesh, state, text, corpus), *corpus.notes, *dropped, *checkpoints.notes):
            print(line, flush=True)

        # ---- stages -------------------------------------------------------------------------------------------------
        rate = optim.learning_rate(config.optim, stages)
        recorder = Unrecorded if jax.process_index() else Metrics
        with (
            progress(sum(stage.steps * stage.batch_tokens for stage in stages)) as bar,
            recorder(workdir, restored.step if restored else None, config.log.tensorboard, bar.note) as metrics,
        ):
            loop = Loop(config, mesh, checkpoints, metrics, bar, stop, started, len(checkpoints.notes))
            if restored:
                bar.note(f"continuing at step {restored.step} of {stages[-1].end_step}")
                saved_in = stages[restored.data["stage"]]
                if restored.step == saved_in.end_step < stages[-1].end_step:
                    stream, _ = batches(saved_in)  # the next stage has no state to compare its text with
                    stream.set_state(restored.data)
                    stream.close()
            tokens_before = 0
            for stage in stages:
                if int(state["step"]) < stage.end_step and not stop.asked:
                    compiling = time.monotonic()
                    stop.first = f"the step of stage {stage.index + 1} is compiled, taken once and saved"
                    step = train_step.compile_step(config, rate, stage, mesh)
                    compile_s = round(time.monotonic() - compiling, 2)
                    stream, waste = batches(stage)
                    if restored and restored.step > stage.first_step:
                        stream.set_state(restored.data)
                    metrics.stage(
                        {
                            "stage": stage.index,
                            "seq_len": stage.seq_len,
                            "batch_size": stage.batch_size,
                            "step": stage.first_step,
                            "compile_s": compile_s,
                            "waste": waste,
                        }
                    )
                    bar.note(
                        f"stage {stage.index + 1} of {len(stages)}: length {stage.seq_len:,}, "
                        f"{stage.batch_size} rows a step, compiled in {compile_s:.1f} s, "
                        f"packing waste {waste:.2%}"
                    )
                    bar.stage(stage.index, len(stages), stage.seq_len)
                    state = loop.run(stage, step, stream, state, tokens_before)
                    stream.close()
                tokens_before += stage.steps * stage.batch_tokens
        stop.first = "the checkpoint is written"
        checkpoints.wait()
        if int(state["step"]) < stages[-1].end_step:
            print(f"stopped at step {int(state['step'])}, with all of it saved; the same command continues", flush=True)
            return
        stop.leave_at_once()

        # ---- evaluation and report ----------------------------------------------------------------------------------
        evaluate.run(config, mesh, state["params"], stages[-1].rope, corpus.held_out, tokenizer, workdir)


if __name__ == "__main__":
    command.run(main)
