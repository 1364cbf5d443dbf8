"""The training of a model without a workdir, for experiments that compare such models."""

import functools
import operator
import time
from collections.abc import Callable

from experiments.settings.tree import Settings


def trained(config: Settings, mesh, streams: Callable, params=None) -> tuple[dict, dict]:
    """Trains through all stages of the config, from `params` or from fresh parameters.

    streams: stage -> the data.pipeline.BatchStream of its batches.

    Returns (parameters, how it went: steps, seconds of compiling and of running, loss of the last batch in nats per
    target).
    """
    import jax
    import jax.numpy as jnp

    from experiments.run import loop
    from longctx import optim, training
    from longctx.data import curriculum

    stages = curriculum.plan(config)
    rate = optim.learning_rate(config.optim, stages)
    params = params and jax.tree.map(jnp.copy, params)  # a step takes its state's memory
    state = training.init_state(config, mesh, params)
    compile_s = run_s = 0.0
    for stage in stages:
        start = time.monotonic()
        print(f"compiling a step at length {stage.seq_len:,} ...", flush=True)
        step = training.compile_step(config, rate, stage, mesh)
        compiled, stream = time.monotonic(), streams(stage)
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
