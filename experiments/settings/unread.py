"""Settings that differ from their defaults and that nothing reads under the others: an error, for whoever set them
expects an effect.

Which settings a RoPE scaling or a feed-forward layer reads, its class says.
"""

from collections.abc import Iterator

from experiments.settings.tree import ExtendConfig, Settings
from longctx.config import Config, DataConfig, LoraConfig, ModelConfig, OptimConfig, RopeConfig
from longctx.errors import UserError
from longctx.positions import scalings
from longctx.positions.scalings import SCALINGS

ADAPTERS = ("alpha", "targets", "adapter")
TUNING = ("tune_length", "tune_steps", "tune_learning_rate")


def check(config: Config) -> None:
    """Raises UserError for the first setting of a training run that has no effect. The names in it must be known."""
    for field, value, why in (*_of_run(config), *(() if config.init_from else _of_model(config))):
        raise UserError(f"{field}={value!r} has no effect: {why}.")


def check_extend(config: Settings) -> None:
    """Raises UserError for the first setting that only tunings of experiments.extend read, where there are none."""
    for name in _changed(config.extend, ExtendConfig(), () if config.extend.tunings else TUNING):
        raise UserError(f"extend.{name}={getattr(config.extend, name)!r} has no effect: extend.tunings is empty.")


def _of_run(config: Config) -> Iterator[tuple]:
    """(field, value, why) of the settings without effect outside of `model`."""
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
    forms = {source.records or config.data.records for source in config.data.mix} or {config.data.records}
    if "text" not in forms and config.data.text_field != DataConfig.text_field:
        yield "data.text_field", config.data.text_field, f"data.records is {config.data.records!r}; 'text' reads it"
    if config.data.generated_loss != DataConfig.generated_loss and not config.data.generated:
        yield "data.generated_loss", config.data.generated_loss, "data.generated is empty; ('retrieval(0.1)',) works"
    for name in _changed(config.model.lora, LoraConfig(), () if config.model.lora.rank else ADAPTERS):
        yield f"model.lora.{name}", getattr(config.model.lora, name), "model.lora.rank is 0; 16 works"


def _of_model(config: Config) -> Iterator[tuple]:
    """(field, value, why) of the settings of a model without effect."""
    yield from _of_feed_forwards(config.model)
    # a stage takes from the model what it does not set, so a number in any rope may be for any of them
    ropes = {"model.rope": config.model.rope}
    ropes |= {f"stages[{i}].rope": stage.rope for i, stage in enumerate(config.stages) if stage.rope}
    ropes |= {f"model.pattern[{i}].rope": kind.rope for i, kind in enumerate(config.model.pattern) if kind.rope}
    readers = _readers({name: scalings.reads(kind) for name, kind in SCALINGS.items()})
    in_force = {scalings.named(rope.scaling)[0] for rope in ropes.values()}
    for field, rope in ropes.items():
        for name in _changed(rope, RopeConfig(), readers):
            if in_force.isdisjoint(SCALINGS[reader] for reader in readers[name]):
                names = ", ".join(map(repr, readers[name]))
                verb = "read" if len(readers[name]) > 1 else "reads"
                yield f"{field}.{name}", getattr(rope, name), f"{field}.scaling is {rope.scaling!r}; {names} {verb} it"


def _of_feed_forwards(model: ModelConfig) -> Iterator[tuple]:
    """(field, value, why) of the settings that no feed-forward layer of the model reads."""
    from longctx.model.block import FEED_FORWARDS  # imports jax

    readers = _readers({name: kind.reads for name, kind in FEED_FORWARDS.items()})
    in_force = {kind.feed_forward for kind in model.kinds}
    for name in _changed(model, ModelConfig(), readers):
        if in_force.isdisjoint(readers[name]):
            names = " and ".join(map(repr, readers[name]))
            verb = "read" if len(readers[name]) > 1 else "reads"
            why = f"model.feed_forward is {model.feed_forward!r}; {names} {verb} it"
            yield f"model.{name}", getattr(model, name), why


def _readers(reads: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """The choices that read each field, of the fields that each choice reads."""
    fields = sorted(set().union(*reads.values()))
    return {field: [name for name, own in reads.items() if field in own] for field in fields}


def _changed(group, default, names) -> list[str]:
    """The fields, among `names`, whose value in a group is not the default."""
    return [name for name in names if getattr(group, name) != getattr(default, name)]
