"""The arms of experiments.bench.curricula, and what a training of one takes in FLOPs.

An arm is a way to feed equally many tokens of the same text: which rows documents lie in, in which order, and how long.
"""

import dataclasses
import functools

import numpy as np

from experiments.pictures.curricula import BASE
from experiments.settings import config as configs
from experiments.settings import defaults, layer, stage
from experiments.settings.tree import Settings
from longctx.data.mixture import Rows
from longctx.errors import UserError

FIRST_EDGE = 16  # tokens: positions below are one bin of the loss


@dataclasses.dataclass(frozen=True)
class Arm:
    """A curriculum.

    Attributes:
      packing, order, window: as data.packing, stages[i].order and stages[i].window.
      short: the share of the steps, the first ones, whose rows are Size.short instead of Size.length tokens.
      joined: whether a row is one document to the model, whatever documents lie in it.
    """

    packing: str = "concat_and_cut"
    order: str = "shuffled"
    window: str = "none"
    short: float = 0.0
    joined: bool = False


ARMS = {
    BASE: Arm(),
    "no borders": Arm(joined=True),
    "best_fit": Arm(packing="best_fit"),
    "decomposition uniform": Arm(packing="decomposition", order="uniform(8)"),
    "decomposition grow_p2": Arm(packing="decomposition", order="grow_p2(8)"),
    "skyladder": Arm(window="linear(32, 0.65, 32)"),
    "switch at 20%": Arm(short=0.2),
    "switch at 40%": Arm(short=0.4),
    "switch at 80%": Arm(short=0.8),
    "short alone": Arm(short=1.0),
    "cut at 128": Arm(window="linear(128, 1, 1024)"),  # a window that stays: as short, and as few documents in a step
}


@dataclasses.dataclass(frozen=True)
class Size:
    """What all arms have in common.

    Attributes:
      length, short: tokens of a row, and of one before a switch.
      steps, batch_tokens: steps of a training, tokens of each.
      longest: tokens of a training document; longer ones are left out.
      layers, width: of the model.
      windows: held-out documents that are read, a cut of `length` tokens of each.
    """

    length: int = 1024
    short: int = 128
    steps: int = 512
    batch_tokens: int = 1024
    longest: int = 4096
    layers: int = 2
    width: int = 64
    windows: int = 64
    learning_rate: float = 1e-2


def settings(arm: Arm, size: Size, seed: int = 0) -> Settings:
    """The Settings of the training of an arm."""
    config = defaults()
    config.name, config.seed, config.batch_tokens = "curricula", seed, size.batch_tokens
    first = round(arm.short * size.steps)
    if not 0 <= first <= size.steps:
        raise UserError(f"short={arm.short} is a share of the steps, from 0 to 1.")
    lengths = ((size.short, first), (size.length, size.steps - first))
    of = dict(order=arm.order, window=arm.window)
    config.stages = tuple(stage(seq_len=tokens, steps=steps, **of) for tokens, steps in lengths if steps)
    config.data.update(packing=arm.packing, longest=size.longest)
    # the first layer sees four tokens: it tells the others what stands before each, see configs/quickstart.py
    pattern = (layer(mask="causal & window(4)"), *[layer()] * (size.layers - 1))
    config.model.update(layers=size.layers, d_model=size.width, mlp_dim=size.width * 11 // 4, pattern=pattern)
    heads = size.width // 16
    config.model.update(heads=heads, kv_heads=heads, head_dim=16, qk_norm="rms", dtype="float32", remat="none")
    config.attention.kernel = "chunked"
    config.optim.update(learning_rate=size.learning_rate, warmup_steps=max(1, size.steps // 16))
    return configs.from_config_dict(config)


@dataclasses.dataclass(frozen=True)
class Joined:
    """Rows (longctx.data.mixture.Rows) each of which is one document to the model."""

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> int:
        """A checksum of what the rows are made from."""
        return self.rows.fingerprint

    def longest(self, rows: np.ndarray) -> np.ndarray:
        """i64 [rows]: the tokens of the longest document in each of the given rows."""
        return self.rows.longest(rows)

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The given rows as a batch."""
        batch = self.rows.gather(rows)
        filled = batch["segments"] > 0
        positions = np.arange(filled.shape[1], dtype=np.int32) * filled
        return batch | {"positions": positions, "segments": filled.astype(np.int32)}


@dataclasses.dataclass
class Tally:
    """What batches that went by take.

    Attributes:
      kinds: of layers: (expression of the mask, latest keys that a query sees or None for all, number of layers).
      block: tokens of a block of attention's kernel.
      pairs: of a query and a key that it sees, in all layers. slots: the same of the blocks that the kernel visits.
      targets: tokens that count in the loss.
      segments, tokens: of the batches: documents, or parts of such, and what they have.
    """

    kinds: tuple[tuple[str, int | None, int], ...]
    block: int
    pairs: float = 0.0
    slots: float = 0.0
    targets: int = 0
    segments: int = 0
    tokens: int = 0

    def add(self, batch: dict[str, np.ndarray]) -> None:
        """Counts a batch, in which positions count from 0 in every segment."""
        positions, filled = batch["positions"].astype(np.int64), batch["segments"] > 0
        for mask, reach, layers in self.kinds:
            seen = positions + 1 if reach is None else np.minimum(positions + 1, reach)
            self.pairs += layers * float(seen[filled].sum())
            self.slots += layers * visited(mask, batch["positions"], batch["segments"], self.block)
        self.targets += int((batch["weights"] > 0).sum())
        self.segments += int(((positions == 0) & filled).sum())
        self.tokens += int(filled.sum())

    def through(self, stream):
        """Yields the batches of a stream, counted."""
        for batch in stream:
            self.add(batch)
            yield batch


def visited(mask: str, positions: np.ndarray, segments: np.ndarray, block: int) -> float:
    """Pairs of a query and a key in the blocks that a kernel visits, of rows [B, T] that block divides or is."""
    block = min(block, positions.shape[1])
    return float(_relations()(mask, block, positions, segments)) * block**2


@functools.cache
def _relations():
    """The compiled count of pairs of blocks that are not EMPTY."""
    import jax

    from pallas_kernels import masks
    from pallas_kernels.attention import blocks

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def count(mask, block, positions, segments):
        info = blocks.pad_info(masks.TokenInfo(positions, segments), block)
        within = masks.within_documents(masks.parse(mask))
        return (blocks.relations(within, info, info, block, block) != masks.EMPTY).sum()

    return count


def tally(config: Settings) -> Tally:
    """An empty Tally of a config's model and attention's kernel."""
    from longctx.positions.view import reaches
    from pallas_kernels.attention import chunked

    model, kinds = config.model, []
    for i, kind in enumerate(model.kinds):
        own = dataclasses.replace(model, layers=1, pattern=(kind,))
        layers = len(range(i, model.layers, len(model.kinds)))
        kinds.append((kind.mask, reaches(own)[0][0], layers))
    longest = max(one.seq_len for one in config.stages)
    return Tally(tuple(kinds), next(block for most, block in chunked.BLOCKS if longest <= most))


def flops(config: Settings, mesh, counted: Tally) -> dict[str, float]:
    """FLOPs of a training whose batches were counted.

    needed: of the linear layers and of visible pairs, attention's backward twice its forward. computed: those of the
    compiled program, whose attention works on whole blocks, and whose backward computes scores and logits again.
    """
    from experiments.planner.work import work
    from longctx import training
    from longctx.data import curriculum

    params, linear, again = training.abstract_state(config, mesh)["params"], 0.0, 0.0
    for one in curriculum.plan(config):
        of_step = work(config, params, one.seq_len, one.batch_size)
        linear, again = linear + one.steps * of_step.matmuls, again + one.steps * of_step.recomputed
    each = 4 * config.model.heads * config.model.head_dim
    attention, blocks = 3 * each * counted.pairs, 3.5 * each * counted.slots
    return {
        "linear": linear,
        "attention": attention,
        "needed": linear + attention,
        "attention_computed": blocks,
        "computed": linear + again + blocks,
    }


def edges(length: int) -> list[int]:
    """Edges of the bins of positions: powers of two from FIRST_EDGE on."""
    powers = [1 << k for k in range(1, 31) if FIRST_EDGE <= 1 << k < length]
    return [0, *powers, length]


def by_bin(nll: np.ndarray, length: int) -> list[float]:
    """Mean losses in the bins of positions; nll: [rows, length]."""
    return [float(nll[:, a:b].mean()) for a, b in zip(edges(length), edges(length)[1:], strict=False)]
