"""The settings of positions: every rope of a run, and augmentations. Free of jax until augmentations are looked up."""

from longctx.config import Config, RopeConfig
from longctx.errors import UserError, unknown_name
from longctx.positions import api, scalings


def check(config: Config) -> None:
    """Raises UserError for a rope of the model, of a kind of layer or of a stage that cannot work."""
    api.check(config.model.rope, config.model.head_dim)
    if not config.model.pattern:
        raise UserError("model.pattern=() must hold a kind of layer; (layer(),) is the model's own.")
    for i, kind in enumerate(config.model.pattern):
        if kind.rope is not None:
            api.check(kind.rope, config.model.head_dim, f"model.pattern[{i}].rope")
            if scalings.of(kind.rope).learned:
                raise UserError(
                    f"model.pattern[{i}].rope.scaling={kind.rope.scaling!r}: its weights go with model.rope alone."
                )
    for i, stage in enumerate(config.stages):
        if stage.rope is not None:
            api.check(stage.rope, config.model.head_dim, f"stages[{i}].rope")
            if _weights(stage.rope) != _weights(config.model.rope):
                raise UserError(
                    f"stages[{i}].rope.scaling={stage.rope.scaling!r} needs other weights than model.rope: "
                    "'clex' in both, with one rotary_fraction and one clex_width, or in neither."
                )


def _weights(rope: RopeConfig) -> tuple[str, float, int] | None:
    """The settings that give the shapes of a rope's learned weights; None for a rope without any."""
    return (rope.scaling, rope.rotary_fraction, rope.clex_width) if scalings.of(rope).learned else None


def check_augmentations(config: Config) -> None:
    """Raises UserError for an augmentation of a stage that is not known, or does not fit its length or rope."""
    from longctx.positions.augment import AUGMENTATIONS

    for i, stage in enumerate(config.stages):
        if stage.augment not in AUGMENTATIONS:
            raise unknown_name(f"stages[{i}].augment", stage.augment, AUGMENTATIONS)
        rope = stage.rope or config.model.rope
        if stage.augment != "none" and stage.augment_length < stage.seq_len:
            raise UserError(
                f"stages[{i}].augment_length={stage.augment_length} must be the length to train for, "
                f"at least stages[{i}].seq_len={stage.seq_len}, for augment={stage.augment!r}."
            )
        if stage.augment != "none" and config.attention.across_rows:
            raise UserError(
                f"stages[{i}].augment={stage.augment!r} draws for each row, and attention.across_rows joins rows; "
                "leave one of them out."
            )
        if stage.augment == "clex" and (rope.scaling, rope.original_length) != ("clex", stage.seq_len):
            raise UserError(
                f"stages[{i}].augment='clex' needs rope.scaling='clex' and rope.original_length="
                f"stages[{i}].seq_len={stage.seq_len}, and they are {rope.scaling!r} and "
                f"{rope.original_length}."
            )
