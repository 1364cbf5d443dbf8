"""Settings that were said, and that nothing reads under the others: an error, for whoever said them expects an effect.

A setting counts as said where it is not its default. Free of jax.
"""

from collections.abc import Iterator

from experiments.settings.tree import ExtendConfig, Settings
from longctx.config import Config, ModelConfig, OptimConfig, RopeConfig
from longctx.cuts import MIXTURES
from longctx.errors import UserError
from longctx.positions.api import READS

TUNING = ("tune_length", "tune_steps", "tune_learning_rate")


def check(config: Config) -> None:
    """Raises UserError for the first such setting of a training run."""
    for field, value, why in (*_of_run(config), *(() if config.init_from else _of_model(config))):
        raise UserError(f"{field}={value!r} has no effect: {why}.")


def check_extend(config: Settings) -> None:
    """Raises UserError for the first setting that only tunings of experiments.extend read, where there are none."""
    for name in _said(config.extend, ExtendConfig(), () if config.extend.tunings else TUNING):
        raise UserError(f"extend.{name}={getattr(config.extend, name)!r} has no effect: extend.tunings is empty.")


def _of_run(config: Config) -> Iterator[tuple]:
    """(field, value, why)"""
    if config.batch_tokens != Config.batch_tokens and all(stage.batch_tokens for stage in config.stages):
        yield (
            "batch_tokens",
            config.batch_tokens,
            ("every stage has its own, such as stages[0].batch_tokens; leave one of the two out"),
        )
    for i, stage in enumerate(config.stages):
        if stage.augment_length and stage.augment == "none":
            yield f"stages[{i}].augment_length", stage.augment_length, f"stages[{i}].augment is 'none'; 'pose' reads it"
    if config.optim.schedule == "constant" and config.optim.final_fraction != OptimConfig.final_fraction:
        yield (
            "optim.final_fraction",
            config.optim.final_fraction,
            ("optim.schedule is 'constant'; 'cosine', 'linear' and 'wsd' read it"),
        )


def _of_model(config: Config) -> Iterator[tuple]:
    model = config.model
    if all(kind.feed_forward not in MIXTURES for kind in model.kinds):
        for name in _said(model, ModelConfig(), ("experts", "experts_per_token", "expert_mlp_dim")):
            yield (
                f"model.{name}",
                getattr(model, name),
                (f"model.feed_forward is {model.feed_forward!r}; {' and '.join(map(repr, MIXTURES))} have experts"),
            )
    # a stage takes from the model what it does not say, so what any rope says may be for any of them
    ropes = {"model.rope": model.rope}
    ropes |= {f"stages[{i}].rope": stage.rope for i, stage in enumerate(config.stages) if stage.rope}
    ropes |= {f"model.pattern[{i}].rope": kind.rope for i, kind in enumerate(model.pattern) if kind.rope}
    scalings = {rope.scaling for rope in ropes.values()}
    for field, rope in ropes.items():
        for name in _said(rope, RopeConfig(), sorted(set().union(*READS.values()))):
            readers = [scaling for scaling, fields in READS.items() if name in fields]
            if not scalings.intersection(readers):
                yield (
                    f"{field}.{name}",
                    getattr(rope, name),
                    (
                        f"{field}.scaling is {rope.scaling!r}; {', '.join(map(repr, readers))} "
                        f"{'read' if len(readers) > 1 else 'reads'} it"
                    ),
                )


def _said(group, default, names) -> list[str]:
    return [name for name in names if getattr(group, name) != getattr(default, name)]
