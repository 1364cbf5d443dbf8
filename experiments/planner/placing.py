"""Schemes of longctx.placing compared on the documents of a batch, by the rates of a chip. Nothing is run."""

import dataclasses
import time
from collections.abc import Iterable

import numpy as np

from experiments.hardware.targets import Chip
from experiments.settings import console
from longctx import placing
from longctx.placing.api import OURS, PLANNED
from longctx.placing.cost import of_model

MARKS = {OURS: " (ours)", PLANNED: " (ours, planned only)"}
COLUMNS = {  # a column's head -> (field of a record, how many of its units a unit of the field is, format)
    "attention": ("attention", 1, ".3f"),
    "linear": ("linear", 1, ".3f"),
    "both": ("both", 1, ".3f"),
    "with sending": ("with_sending", 1, ".3f"),
    "GB": ("bytes", 1e-9, ""),
    "most GB": ("bytes_most", 1e-9, ""),
    "padding %": ("padding", 100, ".2f"),
    "steps": ("steps", 1, ".3g"),
    "ms": ("planning_ms", 1, ""),
}
LEGEND = """attention, linear, both: work of the busiest rank / mean, summed over steps that all ranks end together;
with sending: time / that of even work, where nothing that is sent is hidden; GB: received by all ranks in a step of
training, most by one; ms: time to plan, on one core. flexsp, bytescale and wlb need a program for each group of ranks,
which no static program of all devices (SPMD) is; they, distca and zeppelin are simulated. dispatch
is what longctx does."""
ASSUMPTIONS = (
    "linear layers, attention's forward and its backward run at {matmul:.0%}, {forward:.0%} and {backward:.0%} of "
    "{tflops:.0f} TFLOP/s",
    "a rank receives {near:.0f} GB/s from its node of {per_host}, {far:.0f} GB/s where a document is on several nodes",
    "activations, keys and gradients travel in bfloat16; the backward moves twice what the forward does",
)


def cost(model, chip: Chip, capacity: int, row: int) -> placing.Cost:
    """The Cost of a model on a chip. model: see longctx.placing.cost.of_model; capacity, row: see Cost."""
    flops = tuple(1e12 * chip.tflops * share for share in (chip.matmul, chip.forward, chip.backward))
    return of_model(model, ((chip.per_host, chip.near), (chip.per_host + 1, chip.far)), flops, capacity, row)


def assumptions(chip: Chip) -> list[str]:
    """The assumptions behind the figures, with the chip's rates, for people to read."""
    rates = dataclasses.asdict(chip) | {"near": chip.near / 1e9, "far": chip.far / 1e9}
    return [text.format(**rates) for text in ASSUMPTIONS]


def compared(schemes: Iterable[str], lengths: np.ndarray, ranks: int, cost: placing.Cost) -> list[dict]:
    """A record per scheme: its Measures and the time to plan. Raises UserError for documents that do not fit."""
    records = []
    for scheme in schemes:
        start = time.process_time()
        placement = placing.place(scheme, lengths, ranks, cost)
        spent = 1e3 * (time.process_time() - start)
        records.append({"scheme": scheme} | measured(placement, lengths, cost) | {"planning_ms": spent})
    return records


def measured(placement: placing.Placement, lengths: np.ndarray, cost: placing.Cost) -> dict:
    """The Measures of a placement that keeps the laws."""
    law = placing.broken(placement, lengths, cost.capacity)
    assert law is None, law
    found = placing.measure(placement, cost)
    return dataclasses.asdict(found) | {"with_sending": found.seconds / found.ideal}


def table(records: list[dict], *before: str, columns: Iterable[str] = COLUMNS) -> str:
    """The table of records as `compared` makes them, see LEGEND. before: fields that stand before the columns."""
    lines = [
        [str(r[name]) + (MARKS.get(r[name], "") if name == "scheme" else "") for name in before]
        + [_cell(r, *COLUMNS[column]) for column in columns]
        for r in records
    ]
    return console.table((*before, *columns), lines)


def _cell(record, field, factor, form):
    value = factor * record[field]
    return f"{value:{form}}" if form else console.number(value)
