"""attention.strategy="auto", attention.layout="auto": what is predicted to be fastest, with nothing compiled.

For every strategy whose time the model knows, and every layout: how long the shards compute, how long they wait for the
busiest one on rows of the run's own data, and for links, by the closed forms of longctx/context_parallel/cost.py and
the rates of hardware.CHIPS. Deterministic: the processes of a run come to the same.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

from experiments.hardware.targets import CHIPS, GIB, Target
from experiments.meter import closed, rows
from experiments.planner import attention_step
from experiments.planner.time import rate
from experiments.planner.work import share
from experiments.settings import checks
from experiments.settings import config as configs
from longctx.balance import Balance
from longctx.config import Config
from longctx.context_parallel.api import STRATEGIES
from longctx.context_parallel.cost import PERMUTE, WIDTHS, Sent
from longctx.data.curriculum import Stage
from longctx.data.pipeline import Batch
from longctx.errors import UserError
from longctx.memory import remat

ASSUMED = "h100"  # stands in where the devices are simulated, or not in hardware.CHIPS
LATENCY = 1e-5  # seconds of a collective that the next one waits for
LAYOUTS = "zigzag", "striped({})", "per_document({})", "balanced({})"
_WIDTHS = 256, 64, 16, 4, 1  # the first that divides
_CLOSE = 1.01  # of ways that are as good as that the first is taken, the simplest
_GATHERED = 1 / 8  # of a chip's memory, that may hold the keys of all shards
_EVEN = Balance(work=1, lockstep=1, tokens=1, padding=0, received=1, received_most=1, tiles=1, waste=1, pairs=0)


@dataclasses.dataclass(frozen=True)
class Way:
    """Predicted seconds of attention in one step: computing, waiting for busier shards, and for links."""

    strategy: str
    layout: str
    computing: float
    waiting: float
    links: float

    @property
    def seconds(self) -> float:
        return self.computing + self.waiting + self.links

    def __str__(self):
        return (
            f"{self.strategy}, {self.layout}: {self.seconds:.3g} s, of which {self.waiting:.2g} for busier shards "
            f"and {self.links:.2g} for links"
        )


def settle(config: Config, target: Target, batches: Callable[[Stage], Iterator[Batch]]) -> Config:
    """The config with names for "auto", for attention in one step of the longest stage; prints what was weighed.

    batches: of a stage, before they are laid out. Raises UserError where nothing works.
    """
    asked = configs.left_open(config)
    if not asked:
        return config
    stages = checks.check_settings(configs.stand_in(config))
    if config.mesh.context_shards == 1:
        return configs.stand_in(config)
    if config.memory.backward != "autodiff":
        raise UserError(
            f"attention.{asked[0]}='auto' weighs steps of memory.backward='autodiff', and it is "
            f"{config.memory.backward!r}; 'ulysses' with 'striped(memory.chunk_tokens / context shards)' works."
        )
    stage, chip = max(stages, key=lambda one: one.seq_len), target.chip or CHIPS[ASSUMED]
    platform = target.platform if target.chip else "cuda"
    ways, refused = _weighed(config, stage, dataclasses.replace(target, chip=chip, platform=platform), batches)
    if not ways:
        raise UserError(next(iter(refused.values())))
    best, why = _taken(ways)
    print(
        f"attention in a step of {stage.batch_size} x {stage.seq_len:,} tokens, predicted by the rates of "
        f"{target.name if target.chip else ASSUMED} (seconds of computing, of waiting for the busiest shard on rows "
        "of this data, and of links that computing does not hide), the best layout of each strategy:",
        *_best_of_each(ways),
        *(f"{name}: {reason}" for name, reason in refused.items()),
        f"taken: {best.strategy}, {best.layout}, {why}",
        sep="\n  ",
        flush=True,
    )
    return configs.with_attention(config, strategy=best.strategy, layout=best.layout)


def _taken(ways: list[Way]) -> tuple[Way, str]:
    """The way to go, and why that one: the fastest, or the simplest of those that are as good as that."""
    fastest = min(ways, key=lambda way: way.seconds)
    close = [way for way in ways if way.seconds <= _CLOSE * fastest.seconds]
    if close[0] is fastest:
        return fastest, "the fastest"
    slower = close[0].seconds / fastest.seconds - 1
    return close[0], (
        f"{close[0].seconds:.3g} s: slower than {fastest.strategy}, {fastest.layout}, by {slower:.2%}; "
        f"within {_CLOSE - 1:.0%} the simplest is taken, first of layout, then of strategy"
    )


def _best_of_each(ways) -> list[Way]:
    """Of each strategy, the fastest first."""
    found = {way.strategy: way for way in sorted(ways, key=lambda way: -way.seconds)}
    return sorted(found.values(), key=lambda way: way.seconds)


def _weighed(config, stage, target, batches) -> tuple[list[Way], dict[str, str]]:
    """(every way that works, why a strategy does not under any layout)."""
    how, ways, refused = config.attention, [], {}
    some = list(itertools.islice(batches(stage), rows.BATCHES))
    for layout in _layouts(config) if how.layout == configs.AUTO else [how.layout]:
        even = None
        for strategy in _strategies(config) if how.strategy == configs.AUTO else [how.strategy]:
            variant = configs.with_attention(config, strategy=strategy, layout=layout)
            try:
                checks.check_settings(variant)
                _check_memory(variant, stage, target)
            except UserError as error:
                refused.setdefault(strategy, str(error))
                continue
            even = even or rows.measured(variant, stage, some) or _of_pairs(variant, stage)
            ways.append(_way(variant, stage, target, even))
    return ways, {name: reason for name, reason in refused.items() if name not in [way.strategy for way in ways]}


def _strategies(config) -> list[str]:
    """Strategies with a known waiting model; two-level ones only on a two-level mesh."""
    levels = 2 if config.mesh.context_outer > 1 else 1
    return [name for name, one in STRATEGIES.items() if one.waits is not None and one.levels <= levels]


def _layouts(config) -> list[str]:
    """Those of LAYOUTS in the widest stripes that divide the rows of every stage."""
    shards = config.mesh.context_shards
    fits = lambda width: all(one.seq_len % (shards * width) == 0 for one in config.stages)
    width = next((width for width in _WIDTHS if fits(width)), 1)
    return [layout.format(width) for layout in LAYOUTS]


def _check_memory(config, stage, target) -> None:
    """Raises UserError where all_gather would hold too much: keys and values of all shards, and dK and dV of them."""
    model, how, rows = config.model, config.attention, stage.batch_size // (config.mesh.data * config.mesh.fsdp)
    heads = model.kv_heads // config.mesh.tensor // config.memory.head_groups
    size = 2 * rows * stage.seq_len * heads * model.head_dim * (WIDTHS[model.dtype] + WIDTHS[how.kv_grads_dtype])
    if how.strategy == "all_gather" and size > _GATHERED * target.chip.memory:
        raise UserError(f"holds {size / GIB:.1f} GiB of keys and their gradients")


def _of_pairs(config, stage) -> Balance:
    """For masks that Balance does not know: the same for every shard."""
    kinds, layers = config.model.kinds, config.model.layers
    pairs = sum(share(kind, stage.seq_len) * len(range(i, layers, len(kinds))) for i, kind in enumerate(kinds))
    mine = stage.batch_size / (config.mesh.data * config.mesh.fsdp * config.mesh.context_shards)
    return dataclasses.replace(_EVEN, pairs=pairs * stage.seq_len**2 * mine)


def _way(config, stage, target, even: Balance) -> Way:
    strategy, model, chip = config.attention.strategy, config.model, target.chip
    pair = even.pairs * even.waste * model.heads / config.mesh.tensor * model.head_dim / (chip.tflops * 1e12)
    forward = attention_step.KERNEL_FORWARD * pair / chip.forward
    again = 0.0 if remat.parse(model.remat).keeps("attention_out") else forward
    computing = {
        "forward": forward,
        "recomputed": again,
        "backward": attention_step.KERNEL_BACKWARD * pair / chip.backward,
    }
    waits = STRATEGIES[strategy].waits
    busiest = getattr(even, waits) if waits else 1.0
    sent, links = closed.attention(config, stage), 0.0
    needed = _needed(config, stage, sent, even) if strategy == "dispatch" else 1.0
    for phase, sents in sent.items():
        hidden = _seconds((one for one in sents if one.kind == PERMUTE), config, target)
        shown = _seconds((one for one in sents if one.kind != PERMUTE), config, target)
        links += max(hidden - busiest * computing[phase], 0.0) + needed * shown
    total = sum(computing.values())
    return Way(strategy, config.attention.layout, total, (busiest - 1) * total, links)


def _needed(config, stage, sent, even) -> float:
    """The share of what dispatch sends at most that these rows ask for; all_gather sends the keys of all shards."""
    gathered = closed.attention(configs.with_attention(config, strategy="all_gather"), stage)
    of = lambda found: sum(one.load.bytes for one in found["forward"])
    return min(even.received_most * of(gathered) / of(sent), 1.0) if sent["forward"] else 1.0


def _seconds(sents: Iterable[Sent], config, target) -> float:
    total = 0.0
    for one in sents:
        ways = one.ways if target.platform == "tpu" else 1  # GPUs share their links
        total += one.load.bytes / ways / rate(config, target, one.kind, one.axes) + LATENCY * one.steps
    return total
