"""attention.strategy="auto" and attention.layout="auto": the choice that is predicted to be fastest. Compiles nothing.

For every strategy whose waiting the cost model knows, and every layout, it predicts how long the shards compute, how
long they wait for the busiest one on rows of the run's own data, and how long for links, by the closed forms of
longctx/context_parallel/cost.py and the rates of hardware.targets.CHIPS. Deterministic, so that all processes of a run
choose alike.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

from experiments.hardware.targets import CHIPS, GIB, Target
from experiments.meter import closed, rows
from experiments.planner import attention_step
from experiments.planner.time import rate
from experiments.planner.work import density
from experiments.settings import checks
from experiments.settings import config as configs
from longctx.balance import Balance
from longctx.config import Config
from longctx.context_parallel.api import STRATEGIES
from longctx.context_parallel.cost import PERMUTE, WIDTHS, Sent
from longctx.data import curriculum
from longctx.data.curriculum import Stage
from longctx.data.pipeline import Batch
from longctx.errors import UserError
from longctx.memory import remat

ASSUMED = "h100"  # stands in where the devices are simulated, or not in hardware.CHIPS
LATENCY = 1e-5  # seconds of a collective that the next one waits for
LAYOUTS = "zigzag", "striped({})", "per_document({})", "balanced({})"
_WIDTHS = 256, 64, 16, 4, 1  # the first that divides
_CLOSE = 1.01  # candidates within this factor of the fastest count as equal, and the simplest of them is taken
_GATHERED = 1 / 8  # the fraction of a chip's memory that the keys of all shards may take
_EVEN = Balance(work=1, lockstep=1, tokens=1, padding=0, received=1, received_most=1, tiles=1, waste=1, pairs=0)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A strategy and a layout, with the predicted seconds of attention in one step.

    Attributes:
      computing, waiting, links: seconds of computing, of waiting for busier shards, and of waiting for links.
    """

    strategy: str
    layout: str
    computing: float
    waiting: float
    links: float

    @property
    def seconds(self) -> float:
        """Predicted seconds of attention in one step."""
        return self.computing + self.waiting + self.links

    def __str__(self):
        return (
            f"{self.strategy}, {self.layout}: {self.seconds:.3g} s, of which {self.waiting:.2g} for busier shards "
            f"and {self.links:.2g} for links"
        )


def settle(config: Config, target: Target, batches: Callable[[Stage], Iterator[Batch]]) -> Config:
    """The config with the fastest strategy and layout in place of "auto"; prints the candidates.

    Decides for attention in one step of the longest stage. batches: stage -> its batches, before they are laid out.
    Raises UserError where no candidate works.
    """
    fields = configs.left_open(config)
    if not fields:
        return config
    stages = checks.check_settings(configs.stand_in(config))
    if config.mesh.context_shards == 1:
        return configs.stand_in(config)
    if config.memory.backward != "autodiff":
        raise UserError(
            f"attention.{fields[0]}='auto' weighs steps of memory.backward='autodiff', and it is "
            f"{config.memory.backward!r}; 'ulysses' with 'striped(memory.chunk_tokens / context shards)' works."
        )
    stage, chip = max(stages, key=lambda stage: stage.seq_len), target.chip or CHIPS[ASSUMED]
    platform = target.platform if target.chip else "cuda"
    candidates, refused = _candidates(config, stage, dataclasses.replace(target, chip=chip, platform=platform), batches)
    if not candidates:
        raise UserError(next(iter(refused.values())))
    best, why = _choose(candidates)
    print(
        f"attention in a step of {stage.batch_size} x {stage.seq_len:,} tokens, predicted by the rates of "
        f"{target.name if target.chip else ASSUMED} (seconds of computing, of waiting for the busiest shard on rows "
        "of this data, and of links that computing does not hide), the best layout of each strategy:",
        *_best_layouts(candidates),
        *(f"{name}: {reason}" for name, reason in refused.items()),
        f"taken: {best.strategy}, {best.layout}, {why}",
        sep="\n  ",
        flush=True,
    )
    return configs.with_attention(config, strategy=best.strategy, layout=best.layout)


def _choose(candidates: list[Candidate]) -> tuple[Candidate, str]:
    """(candidate, reason): the first, which is the simplest, of those within _CLOSE of the fastest."""
    fastest = min(candidates, key=lambda candidate: candidate.seconds)
    close = [candidate for candidate in candidates if candidate.seconds <= _CLOSE * fastest.seconds]
    if close[0] is fastest:
        return fastest, "the fastest"
    slower = close[0].seconds / fastest.seconds - 1
    return close[0], (
        f"{close[0].seconds:.3g} s: slower than {fastest.strategy}, {fastest.layout}, by {slower:.2%}; "
        f"within {_CLOSE - 1:.0%} the simplest is taken, first of layout, then of strategy"
    )


def _best_layouts(candidates) -> list[Candidate]:
    """The fastest candidate of each strategy, the fastest strategy first."""
    seconds = lambda candidate: candidate.seconds
    fastest = {candidate.strategy: candidate for candidate in sorted(candidates, key=seconds, reverse=True)}
    return sorted(fastest.values(), key=seconds)


def _candidates(config, stage, target, batches) -> tuple[list[Candidate], dict[str, str]]:
    """(the candidates that work, {strategy: reason} for strategies that work under no layout)."""
    attention, candidates, refused = config.attention, [], {}
    sample = list(itertools.islice(batches(stage), rows.BATCHES))
    for layout in _layouts(config) if attention.layout == configs.AUTO else [attention.layout]:
        balance = None
        for strategy in _strategies(config) if attention.strategy == configs.AUTO else [attention.strategy]:
            variant = configs.with_attention(config, strategy=strategy, layout=layout)
            try:
                checks.check_settings(variant)
                _check_memory(variant, stage, target)
            except UserError as error:
                refused.setdefault(strategy, str(error))
                continue
            balance = balance or rows.measured(variant, stage, sample) or _even(variant, stage)
            candidates.append(_predicted(variant, stage, target, balance))
    works = {candidate.strategy for candidate in candidates}
    return candidates, {name: reason for name, reason in refused.items() if name not in works}


def _strategies(config) -> list[str]:
    """The strategies whose waiting is known, two-level ones only on a two-level mesh."""
    levels = 2 if config.mesh.context_outer > 1 else 1
    return [name for name, kind in STRATEGIES.items() if kind.waits is not None and kind.levels <= levels]


def _layouts(config) -> list[str]:
    """LAYOUTS with the widest stripes that divide the rows of every stage."""
    shards = config.mesh.context_shards
    fits = lambda width: all(stage.shape[1] % (shards * width) == 0 for stage in curriculum.plan(config))
    width = next((width for width in _WIDTHS if fits(width)), 1)
    return [layout.format(width) for layout in LAYOUTS]


def _check_memory(config, stage, target) -> None:
    """Raises UserError where all_gather would hold too much: keys and values of all shards, with their gradients."""
    model, attention = config.model, config.attention
    tokens = stage.batch_tokens // (config.mesh.data * config.mesh.fsdp)
    heads = model.kv_heads // config.mesh.tensor // config.memory.head_groups
    width = WIDTHS[model.dtype] + WIDTHS[attention.kv_grads_dtype]
    size = 2 * tokens * heads * model.head_dim * width
    if attention.strategy == "all_gather" and size > _GATHERED * target.chip.memory:
        raise UserError(f"holds {size / GIB:.1f} GiB of keys and their gradients")


def _even(config, stage) -> Balance:
    """A perfectly even Balance, for masks that balance.measure does not take."""
    kinds, layers = config.model.kinds, config.model.layers
    pairs = sum(density(kind, stage.seq_len) * len(range(i, layers, len(kinds))) for i, kind in enumerate(kinds))
    rows = stage.batch_size / (config.mesh.data * config.mesh.fsdp * config.mesh.context_shards)  # of a device
    return dataclasses.replace(_EVEN, pairs=pairs * stage.seq_len**2 * rows)


def _predicted(config, stage, target, balance: Balance) -> Candidate:
    """The candidate that a config names, with its predicted times."""
    strategy, model, chip = config.attention.strategy, config.model, target.chip
    pair = balance.pairs * balance.waste * model.heads / config.mesh.tensor * model.head_dim / (chip.tflops * 1e12)
    forward = attention_step.KERNEL_FORWARD * pair / chip.forward
    again = 0.0 if remat.parse(model.remat).keeps("attention_out") else forward
    computing = {
        "forward": forward,
        "recomputed": again,
        "backward": attention_step.KERNEL_BACKWARD * pair / chip.backward,
    }
    waits = STRATEGIES[strategy].waits
    busiest = getattr(balance, waits) if waits else 1.0
    traffic, links = closed.attention(config, stage), 0.0
    needed = _needed(config, stage, traffic, balance) if strategy == "dispatch" else 1.0
    for phase, sends in traffic.items():
        overlapped = _seconds((sent for sent in sends if sent.kind == PERMUTE), config, target)
        exposed = _seconds((sent for sent in sends if sent.kind != PERMUTE), config, target)
        links += max(overlapped - busiest * computing[phase], 0.0) + needed * exposed
    total = sum(computing.values())
    return Candidate(strategy, config.attention.layout, total, (busiest - 1) * total, links)


def _needed(config, stage, traffic, balance) -> float:
    """The bytes that dispatch sends for these rows, as a fraction of the most it can send.

    all_gather sends the keys of all shards, of which Balance.received_most says the fraction that is needed.
    """
    gathered = closed.attention(configs.with_attention(config, strategy="all_gather"), stage)
    sent_bytes = lambda traffic: sum(sent.load.bytes for sent in traffic["forward"])
    return min(balance.received_most * sent_bytes(gathered) / sent_bytes(traffic), 1.0) if traffic["forward"] else 1.0


def _seconds(sends: Iterable[Sent], config, target) -> float:
    """Seconds of sends one after another, by the rates of the target's links."""
    total = 0.0
    for sent in sends:
        ways = sent.ways if target.platform == "tpu" else 1  # GPUs share their links
        total += sent.load.bytes / ways / rate(config, target, sent.kind, sent.axes) + LATENCY * sent.steps
    return total
