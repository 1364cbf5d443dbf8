"""Predicted time of a step on this machine's processor: the operations of the compiled program at measured prices.

Nothing of the step is run. Each kind of product is timed by itself, attention on one layer and one row; every other
instruction costs the bytes that it moves and the exponentials in it.
"""

from experiments.hardware.cpu import Machine
from experiments.hlo import passes
from experiments.hlo.passes import Pass, Product
from experiments.planner.time import Time
from experiments.planner.work import Work
from longctx.config import Config
from longctx.context_parallel.api import SCOPE


def predict(config: Config, machine: Machine, work: Work, length: int, text: str) -> Time:
    """The predicted Time of one step; text: of its compiled program. length: of its rows, in tokens."""
    operations = [item for item in passes.read(text) if SCOPE not in item.op_name.split("/")]
    products = sum(machine.product(item.form) * item.runs.times for item in operations if isinstance(item, Product))
    others = [item for item in operations if isinstance(item, Pass)]
    moved = sum(item.bytes * item.runs.times for item in others)
    costly = sum(item.costly * item.runs.times for item in others)
    pairs = work.forward / (4 * config.model.heads * config.model.head_dim)  # of all layers and rows
    forward, backward = machine.attention(config.model, length)
    return Time(
        products,
        pairs * work.times * forward,
        pairs * backward,
        (),
        moved / machine.bandwidth + costly * machine.costly,
    )


def assumptions(machine: Machine) -> list[str]:
    """The assumptions behind a prediction, with this machine's rates, for people to read."""
    return [
        "every matrix product takes as long as it does alone, measured here",
        "attention takes as long per pair of tokens as a causal row of one layer, measured here",
        f"all other instructions move their bytes at {machine.bandwidth / 1e9:.1f} GB/s and take "
        f"{machine.costly * 1e9:.2f} ns for each exponential, measured here",
        f"the peak is what a large product in float32 reaches, {machine.peak / 1e9:.0f} GFLOP/s",
    ]
