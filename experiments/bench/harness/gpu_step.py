"""The timed training step of gpu_check. Imports nothing but the standard library before it is called."""

import statistics
import time

MODEL = dict(vocab_size=32768, layers=8, d_model=2048, mlp_dim=8192, heads=16, kv_heads=4, head_dim=128, tied_head=True)
_STEPS = 4


def step(case, programs):
    """A function () -> seconds and losses of training steps of MODEL on one row, and the peak of device memory."""
    import jax

    from longctx import meshes, optim, training
    from longctx.data import curriculum

    config = _run(case)
    mesh, stages = meshes.make(config.mesh), curriculum.plan(config)
    run = training.compile_step(config, optim.learning_rate(config.optim, stages), stages[0], mesh)
    state, batch = training.init_state(config, mesh), _batch(config, stages[0], mesh)
    jax.block_until_ready(state)

    def measured(state=state):
        seconds, losses = [], []
        for _ in range(_STEPS):
            start = time.perf_counter()
            state, metrics = run(state, batch)
            jax.block_until_ready(state)
            seconds.append(time.perf_counter() - start)
            losses.append(float(metrics["loss"]))
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return {
            "seconds": seconds,
            "losses": losses,
            "peak_bytes": peak,
            "tokens_per_second": stages[0].batch_tokens / statistics.median(seconds[1:]),
        }

    return measured


def _run(case):
    """The Config whose step is timed; rows shorter than 1024 train a miniature of MODEL."""
    from longctx import config as settings

    small = dict(layers=2, d_model=64, mlp_dim=128, heads=2, kv_heads=1, head_dim=64, vocab_size=512)
    model = MODEL if case.length >= 1024 else MODEL | small
    return settings.Config(
        batch_tokens=case.length,
        stages=(settings.StageConfig(seq_len=case.length, steps=1000),),
        model=settings.ModelConfig(**model),
        attention=settings.AttentionConfig(kernel=case.route),
    )


def _batch(config, stage, mesh):
    import jax
    import jax.numpy as jnp

    from longctx import training

    shape = stage.shape
    tokens = jax.random.randint(jax.random.key(0), shape, 0, config.model.vocab_size, jnp.int32)
    batch = {
        "tokens": tokens,
        "targets": jnp.roll(tokens, -1, 1),
        "weights": jnp.ones(shape, jnp.float32),
        "positions": jnp.arange(shape[1], dtype=jnp.int32)[None],
        "segments": jnp.ones(shape, jnp.int32),
    }
    return jax.device_put(batch, jax.tree.map(lambda x: x.sharding, training.abstract_batch(stage, mesh)))
