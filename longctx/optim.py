"""AdamW with a schedule per run and a treatment per stage, global-norm clipping, and a guard on what it gives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from longctx.config import Config, OptimConfig
from longctx.errors import unknown_name
from longctx.memory import host


def cosine(config: OptimConfig, steps: int):
    """Linear warm-up, then half a cosine to final_fraction of the peak."""
    warmup = min(config.warmup_steps, max(steps - 1, 1))
    return optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(steps, warmup + 1), config.learning_rate * config.final_fraction
    )


def linear(config: OptimConfig, steps: int):
    """Linear warm-up, then a line to final_fraction of the peak."""
    peak, warmup = config.learning_rate, min(config.warmup_steps, max(steps - 1, 1))
    down = optax.linear_schedule(peak, peak * config.final_fraction, max(steps - warmup, 1))
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), down], [warmup])


def constant(config: OptimConfig, steps: int):
    """Linear warm-up, then the peak."""
    return optax.linear_schedule(0.0, config.learning_rate, max(config.warmup_steps, 1))


def warmup_stable_decay(config: OptimConfig, steps: int):
    """Linear warm-up, the peak, and a line to final_fraction of it over the last fifth (MiniCPM's WSD)."""
    peak, warmup, decay = config.learning_rate, config.warmup_steps, max(steps // 5, 1)
    down = optax.linear_schedule(peak, peak * config.final_fraction, decay)
    return optax.join_schedules([constant(config, steps), down], [max(steps - decay, warmup)])


SCHEDULES = {"cosine": cosine, "linear": linear, "constant": constant, "wsd": warmup_stable_decay}


def continued(schedule, stage, config: OptimConfig):
    """The run's schedule, which goes on across the stage boundary."""
    return schedule


def rewarmed(schedule, stage, config: OptimConfig):
    """The run's schedule times a rise from 0 to 1, over warmup_steps or a quarter of the stage if that is shorter."""
    steps = max(1, min(config.warmup_steps, stage.steps // 4))
    return lambda step: schedule(step) * jnp.clip((step - stage.first_step) / steps, 0.0, 1.0)


def restarted(schedule, stage, config: OptimConfig):
    """The schedule of a run of the steps of the stage alone, its warm-up a quarter of them at most."""
    own = dataclasses.replace(config, warmup_steps=min(config.warmup_steps, stage.steps // 4))
    of_stage = SCHEDULES[config.schedule](own, stage.steps)
    return lambda step: of_stage(step - stage.first_step)


LR_TREATMENTS = {"continue": continued, "rewarm": rewarmed, "restart": restarted}


def learning_rate(config: OptimConfig, stages):
    """step -> learning rate over all stages (data.curriculum.Stage), each with its own treatment and scale.

    Steps count from 0. A schedule's time counts from 1, so that the first step already learns.
    """
    schedule = SCHEDULES[config.schedule](config, stages[-1].first_step + stages[-1].steps)
    parts = [LR_TREATMENTS[stage.lr](schedule, stage, config) for stage in stages]

    def rate(step):
        value = jnp.float32(0.0)
        for stage, part in zip(stages, parts, strict=True):
            value = jnp.where(step >= stage.first_step, part(step + 1) * stage.lr_scale, value)
        return value

    return rate


def optimizer(config: OptimConfig, decays):
    """The optax transformation for clipped gradients; its updates still have to be multiplied by the learning rate.

    decays: whether weight decay applies, a tree of bools like the parameters (model.functional.decays has that of a
    model), or one bool for a whole subtree.
    """
    return optax.chain(
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decays),
        optax.scale(-1.0),
    )


def start(config: OptimConfig, params):
    """The moments of parameters before the first step; which of them decay makes no difference to these."""
    return optimizer(config, True).init(params)


def updated(config: OptimConfig, rate, grads, moments, params, good, decays):
    """(params, moments, good) after one step of AdamW at a learning rate; as they were where `good` is false.

    decays: see `optimizer`.

    A number of the new parameters that is not finite stays as it was, and makes the good that is returned false: so
    the state is finite, whatever the learning rate, at the cost of no second pass over it. The good that is given must
    say that the squares of the gradients are finite: so are the new moments then, means of two finite numbers each. Any
    part of the parameters will do, with the same part of the moments.
    """
    updates, new_moments = optimizer(config, decays).update(grads, moments, params)
    new_params = jax.tree.map(lambda p, u: p + (rate * u).astype(p.dtype), params, updates)
    kept = jax.tree.map(lambda new, old: jnp.where(good & jnp.isfinite(new), new, old), new_params, params)
    new_moments = jax.tree.map(lambda new, old: jnp.where(good, new, old), new_moments, moments)
    return kept, new_moments, functools.reduce(jnp.logical_and, map(host.finite, jax.tree.leaves(new_params)), good)


def moments_of(moments, pick):
    """The moments of a part of the parameters; pick: (tree of all of them) -> tree of the part. Counts are shared."""
    adam, *rest = moments
    return adam._replace(mu=pick(adam.mu), nu=pick(adam.nu)), *rest


def clip_factor(norm, max_norm: float):
    """The factor that scales gradients of that global norm to max_norm at most."""
    return jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-30))


def clipped(grads, max_norm: float):
    """(gradients scaled to a global norm of at most max_norm, the norm before); max_norm 0 leaves them alone."""
    norm = optax.tree.norm(grads)
    if not max_norm:
        return grads, norm
    factor = clip_factor(norm, max_norm)
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), norm


def check(config: Config) -> None:
    """Raises UserError for an unknown schedule, or an unknown treatment of the learning rate in a stage."""
    if config.optim.schedule not in SCHEDULES:
        raise unknown_name("optim.schedule", config.optim.schedule, SCHEDULES)
    for i, stage in enumerate(config.stages):
        if stage.lr not in LR_TREATMENTS:
            raise unknown_name(f"stages[{i}].lr", stage.lr, LR_TREATMENTS)
