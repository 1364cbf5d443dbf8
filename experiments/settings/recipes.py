"""What recipes of published training share: their stages, their sources below one folder, devices, and a smoke run."""

import math
import os
import sysconfig
from collections.abc import Sequence

from experiments.settings import models, rope, source, stage

# arguments of every such recipe, beside its model
ARGUMENTS = dict(data="", budget=1.0, fsdp=1, context=1, smoke=False)
SMOKE_TEXT = "email"  # a package of Python's own library, of twenty files
SMOKE_ROWS = 16  # a step: one of a source of 3% in two steps


def phase(seq_len: int, steps: int, batch_tokens: int, theta: float = 0.0, **fields) -> dict:
    """A stage as it was published: fields of StageConfig, and the base of its RoPE, 0 for the model's."""
    own = {"rope": rope(theta=theta)} if theta else {}
    return dict(seq_len=seq_len, steps=steps, batch_tokens=batch_tokens) | own | fields


def fill(
    config, args, phases: Sequence[dict], sources: Sequence[dict] = (), *, warmup: int, smoke_length: int = 128
) -> None:
    """Sets up `config` to train a model of experiments.settings.models through stages, all its weights.

    A step's rows go through the model in as many parts as have one row of the longest stage on each device.

    Args:
      args: what the recipe was called with: ARGUMENTS, and `model`. data: the folder of the text, where data.path stays
        unless it is given; budget: how much of the published steps and of the warm-up is taken; fsdp: devices that hold
        rows of their own, each over as many devices as context; smoke: two steps of the last stage, tiny.
      phases: what `phase` makes, in order.
      sources: fields of SourceConfig, the path below the folder.
      warmup: published steps of it.
      smoke_length: tokens of a row of the smoke run.

    Raises UserError for an unknown model.
    """
    longest = phases[-1]["seq_len"]
    models.fill(config, args.model, length=longest, smoke=args.smoke, context=args.context)
    config.model.remat = "attention"
    config.optim.warmup_steps = max(1, round(args.budget * warmup))
    if args.smoke:
        length = smoke_length * args.context
        config.batch_tokens = SMOKE_ROWS * length
        config.stages = (stage(**phases[-1] | dict(seq_len=length, steps=2, batch_tokens=0)),)
    else:
        config.stages = _stages(phases, args.budget)
        config.batch_tokens = phases[0]["batch_tokens"]
        config.mesh.fsdp = args.fsdp
        config.memory.update(grad_accumulation=_parts(phases, args.fsdp), mlp_tiles=4)
        config.checkpoint.every_steps = 100
    _fill_text(config, args, sources)


def _stages(phases: Sequence[dict], budget: float) -> tuple:
    """The stages of a share of the published steps. The first one's tokens per step are those of the run."""
    common = phases[0]["batch_tokens"]
    own = lambda tokens: 0 if tokens == common else tokens
    return tuple(
        stage(**one | dict(steps=max(1, round(budget * one["steps"])), batch_tokens=own(one["batch_tokens"])))
        for one in phases
    )


def _parts(phases: Sequence[dict], fsdp: int) -> int:
    """Parts of every step, of at least one row on each device."""
    rows = math.gcd(*(one["batch_tokens"] // one["seq_len"] for one in phases))
    return rows // fsdp if rows % fsdp == 0 else 1


def _fill_text(config, args, sources: Sequence[dict]) -> None:
    """Sets where the text is. In a smoke run every source is a few files of Python's own library, of any length."""
    folder = os.path.join(sysconfig.get_path("stdlib"), SMOKE_TEXT) if args.smoke else args.data
    if not folder:
        for one in config.stages:
            one.mix = ()
    elif not sources:
        config.data.path = folder
    elif args.smoke:
        config.data.mix = tuple(source(one["name"], folder, one.get("share", 1.0)) for one in sources)
    else:
        config.data.mix = tuple(source(**one | dict(path=os.path.join(folder, one["path"]))) for one in sources)
