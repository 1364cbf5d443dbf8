"""Schemes of longctx.placing compared on the documents of a batch, by the rates of a chip. Nothing is run."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from experiments.hardware.targets import Chip
from experiments.settings import console
from longctx import placing
from longctx.config import Config
from longctx.errors import UserError
from longctx.placing import dispatch
from longctx.placing.api import OURS
from longctx.placing.cost import of_model

MARKS = dict.fromkeys(OURS, " (ours)")
CONFIG = "as configured"
ROOM = 2  # tokens that a rank has room for / those that it has on average
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
is what longctx does on the best mesh, dispatch_rows with attention.across_rows, both by the layout balanced(256)."""
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
    return [
        _record(name, lambda name=name: placing.place(name, lengths, ranks, cost), lengths, cost) for name in schemes
    ]


def of_batch(config: Config, chip: Chip, batch: Mapping[str, np.ndarray]) -> tuple[list[dict], dict[str, str]]:
    """(records, {scheme: reason} of those that cannot place) of the documents of a config's batch, before it is laid
    out; the first record is of its own mesh, by the layout balanced(256) and keys sent by need.

    Raises UserError for a mesh with tensor parallelism, whose ranks are groups of devices.
    """
    model, mesh, records, refused = config.model, config.mesh, [], {}
    if mesh.tensor > 1:
        raise UserError(f"--placing compares ranks of one device, and mesh.tensor={mesh.tensor}; 1 works.")
    if model.experts:
        model = dataclasses.replace(model, mlp_dim=model.experts_per_token * model.expert_mlp_dim)
    of_row = [np.bincount(row)[1:] for row in batch["segments"]]
    lengths, ranks = np.concatenate(of_row), mesh.devices
    rows = np.split(np.arange(len(lengths)), np.cumsum([len(of) for of in of_row])[:-1])
    price = cost(model, chip, ROOM * -(-batch["segments"].size // ranks), batch["segments"].shape[1])
    makes = {CONFIG: lambda: _as_configured(config, rows, lengths, price)}
    for name in placing.SCHEMES:
        given = {"rows": rows} if name in OURS else {}
        makes[name] = lambda name=name, given=given: placing.SCHEMES[name](lengths, ranks, price, **given)
    for name, make in makes.items():
        try:
            records.append(_record(name, make, lengths, price))
        except UserError as error:
            refused[name] = str(error)
    return records, refused


def _as_configured(config: Config, rows: dispatch.Rows, lengths: np.ndarray, price: placing.Cost) -> placing.Placement:
    """The Placement on the mesh of a config."""
    mesh, shards = config.mesh, config.mesh.context_shards
    if config.attention.across_rows and mesh.devices == shards:
        return dispatch.across_rows(lengths, shards, price, rows)
    return dispatch.on_mesh(rows, lengths, mesh.devices // shards, shards, price.row)


def _record(name: str, make: Callable[[], placing.Placement], lengths: np.ndarray, cost: placing.Cost) -> dict:
    start = time.process_time()
    placement = make()
    spent = 1e3 * (time.process_time() - start)
    return {"scheme": name} | measured(placement, lengths, cost) | {"planning_ms": spent}


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
