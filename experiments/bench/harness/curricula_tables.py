"""The tables of experiments.bench.curricula: what arms learn, what they take, and what tells two of them apart."""

import functools
import math

import numpy as np

from experiments.pictures.curricula import BASE, differences, interval, losses, mean_loss, names, needed, values

Table = tuple[list[str], list[list]]
PAIRS = (  # the first minus the second
    ("decomposition uniform", "no borders"),
    ("decomposition uniform", BASE),
    ("decomposition grow_p2", "decomposition uniform"),
    ("switch at 80%", "switch at 20%"),
    ("switch at 80%", "short alone"),
    ("short alone", "cut at 128"),
    ("cut at 128", BASE),
    ("skyladder", BASE),
)


def learned(content: dict) -> Table:
    """Held-out loss of arms with its standard deviation over seeds, and what they have more than BASE."""
    records, lines = content["records"], []
    for name in names(records):
        found = [*values(records, name, mean_loss).values()]
        spread = np.std(found, ddof=1) if len(found) > 1 else math.nan
        more = "" if name == BASE else signed(differences(records, name, mean_loss))
        flops = _teraflops(records, name, "needed")
        lines.append([name, f"{np.mean(found):.3f} ± {spread:.3f}", more, flops])
    return ["arm", "held-out loss", f"minus {BASE}", "TFLOP"], lines


def taken(content: dict) -> Table:
    """FLOPs, of visible pairs and of the compiled program, and seconds of the steps of arms."""
    records, lines = content["records"], []
    seconds = {one["arm"]: one["seconds"] for one in content["times"]}
    for name in names(records):
        of = [record["fed"] for record in records if record["arm"] == name]
        tokens = sum(fed["tokens"] for fed in of)
        filled, mean = 100 * tokens / sum(fed["slots"] for fed in of), tokens / sum(fed["segments"] for fed in of)
        cells = [_teraflops(records, name, kind) for kind in ("attention", "needed", "attention_computed", "computed")]
        lines.append([name, f"{filled:.2f}", f"{mean:.0f}", *cells, f"{seconds[name]:.1f}" if seconds else "-"])
    columns = ["arm", "filled %", "mean piece", "attention, TFLOP", "all, TFLOP"]
    return [*columns, "attention computed", "all computed", "steps, s"], lines


def positioned(content: dict) -> Table:
    """Held-out loss by position: of BASE as it is, of other arms what they have more."""
    records, bounds = content["records"], content["edges"]
    columns = ["arm", *(f"{a:,} to {b:,}" for a, b in zip(bounds, bounds[1:], strict=False))]
    lines = []
    for name in names(records):
        cells = [f"{loss:.3f}" for loss in np.mean([*values(records, name, losses).values()], 0)]
        if name != BASE:
            cells = list(map(signed, differences(records, name, losses).T))
        lines.append([name, *cells])
    return columns, lines


def contrasts(content: dict) -> Table:
    """PAIRS of arms: the difference of their held-out losses, over all positions and over the last bin."""
    records, (*_, start, end), lines = content["records"], content["edges"], []
    present = names(records)
    for one, other in PAIRS:
        if one in present and other in present:
            whole, bins = (differences(records, one, read, other) for read in (mean_loss, losses))
            by_seed = " / ".join(f"{value:+.3f}" for value in whole)
            lines.append([f"{one} minus {other}", signed(whole), by_seed, signed(bins[:, -1])])
    return ["difference", "all positions", "by seed", f"from {start:,} to {end:,}"], lines


def signed(found: np.ndarray) -> str:
    """The mean of differences with half of its 95% interval; in bold where that leaves out 0."""
    mean, half = interval(found)
    text = f"{mean:+.3f} ± {half:.3f}"
    return f"**{text}**" if abs(mean) > half else text


def _teraflops(records: list[dict], arm: str, kind: str) -> str:
    found = values(records, arm, functools.partial(needed, kind=kind))
    return f"{np.mean([*found.values()]) / 1e12:.3f}"
