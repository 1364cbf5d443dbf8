"""Renders the tables of docs/results from the JSON files beside them, and says which are not current.

    python -m experiments.bench.results             # rewrites what stands between the markers of docs/results/*.md
    python -m experiments.bench.results --check     # changes nothing; exit code 1 where a page is not what JSON says

A page asks for a table by `<!-- table FILE.json NAME -->`, and for its origin by `<!-- origin FILE.json -->`; what
follows up to `<!-- end -->` is rendered. FILE.json is what a benchmark wrote with --out. Files with "tables" hold
columns and rows as they are: results that no benchmark writes, or that are older than the benchmark's --out.
"""

import json
import pathlib
import re
import sys

import numpy as np

from experiments.bench import extrapolate
from experiments.bench.harness import curricula_tables, options
from experiments.pictures.claims import DRAWS, share
from experiments.settings.console import Parser, number
from longctx.errors import UserError, unknown_name
from longctx.evals.tasks.by_position import bucket_edges

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "results"
MARKER = re.compile(r"<!-- (table|origin) (\S+\.json) ?(\S*) -->\n.*?<!-- end -->", re.DOTALL)
VERSIONS, PEERS = ("jax", "libtpu"), ("torch", "transformers")  # that an origin names
BESIDE_PEERS = "attention", "train_step", "generate"
Table = tuple[list[str], list[list]]  # the names of the columns, and rows of cells


def columns_of(key: str, **columns: str):
    """A function (content of a JSON file) -> Table of the records under `key`: column -> path in a record."""
    return lambda content: (list(columns), [[at(record, path) for path in columns.values()] for record in content[key]])


def at(record: dict, path: str):
    """The value under keys with dots between them; None where there is none."""
    for key in path.split("."):
        record = record.get(key) if isinstance(record, dict) else None
    return record


def pivoted(records: list[dict], rows: tuple[str, ...], column: str, cell) -> Table:
    """A Table with one row for each value of the keys `rows`, and one column for each value of the key `column`."""
    names = list(dict.fromkeys(str(record[column]) for record in records))
    cells = {}
    for record in records:
        cells.setdefault(tuple(record[key] for key in rows), {})[str(record[column])] = cell(record)
    return [*rows, *names], [[*keys, *(line.get(name) for name in names)] for keys, line in cells.items()]


def targets(content: dict) -> Table:
    """The numbers of a benchmark beside what it aims at; every benchmark has this table."""
    lines = [[t["what"], t["value"], t["target"], t["result"]] for t in content["targets"]]
    return ["aim", "value", "wanted", "result"], lines


def layouts(content: dict) -> Table:
    """Work of the busiest shard / mean, and keys received in % of a ring's, by layout."""
    cell = lambda r: f"{r['work']:.3f} / {100 * r['received']:.1f}"
    return pivoted(content["records"], ("kind", "shards"), "layout", cell)


def layers(content: dict) -> Table:
    """Milliseconds of a layer's attention by layout and exchange."""
    records = [record | {"way": f"{record['layout']}, {record['exchange']}"} for record in content["library"]]
    return pivoted(records, ("shards",), "way", lambda r: r["ms"])


def loops(content: dict) -> Table:
    """One row for each loop with matmuls of each GPU kernel."""
    columns = [
        "kernel",
        "op",
        "program",
        "registers",
        "spills",
        "shared",
        "wgmma",
        "mma.sync",
        "instructions",
        "stalls",
    ]
    of_kernel = "name", "registers", "spills", "shared", "wgmma", "mma_sync"
    lines = [
        [result["case"]["kernel"], result["case"]["op"], *(kernel[name] for name in of_kernel)]
        + [loop["instructions"], loop["stalls"]]
        for result in content["results"]
        if result["case"]["kernel"] != "cudnn"  # without a GPU its kernels are not there: it shows the next one's
        for kernel in result["kernels"]
        for loop in kernel["loops"]
        if loop["matmuls"]
    ]
    return columns, lines


def decoding(content: dict) -> Table:
    """One row for each GPU and length of the kernel for few queries: machine code, and least times of a call."""
    columns = ["GPU", "queries", "tokens", "registers", "spills", "shared", "programs a processor"]
    columns += ["instructions a block, full / masked", "issue, us", "memory, us"]
    lines = [
        [result["chip"], result["case"]["queries"], int(tokens)]
        + [kernel[name] for name in ("registers", "spills", "shared", "blocks")]
        + [" / ".join(str(loop["instructions"]) for loop in kernel["loops"] if loop["matmuls"])]
        + [least["issue"], least["memory"]]
        for result in content["results"]
        for kernel in result["kernels"]
        for tokens, least in result["floors"].items()
    ]
    return columns, lines


def extended(name: str, cell):
    """A function (content of experiments.extend's JSON) -> Table of a task: methods by length, as `cell` writes them.

    cell: (value, counts) of a method at a length, both None where there is nothing.
    """

    def of(content: dict) -> Table:
        task = next(task for task in content["tasks"] if task["name"] == name)
        columns = ["method", "parameters", *(f"{length:,}" for length in task["lengths"])]
        lines = [
            [record["name"], record["how"], *map(cell, record["value"], record["cells"])] for record in task["records"]
        ]
        return columns, lines

    return of


def generalised(content: dict) -> Table:
    """The % of values recalled by every seed's model: position methods by length."""
    records = content["records"]
    lines = []
    for position in dict.fromkeys(record["position"] for record in records):
        of = [np.sum(r["right"], 1) / np.sum(r["asked"], 1) for r in records if r["position"] == position]
        lines.append([position, *(" / ".join(f"{100 * share:.0f}" for share in column) for column in np.transpose(of))])
    return ["position, by seed", *(f"{length:,}" for length in records[0]["lengths"])], lines


def extrapolated(content: dict) -> Table:
    """The loss of every seed's model: position methods by the tokens that are read."""
    records = content["records"]
    return ["position, nats by seed", *(f"{length:,}" for length in records[0]["lengths"])], extrapolate.rows(records)


def claimed(content: dict) -> Table:
    """The % of questions answered right, of all draws and of each: tasks by length; - where none was asked."""
    records = content["records"]
    lengths, tasks = (list(dict.fromkeys(record[name] for record in records)) for name in ("length", "task"))

    def cell(**of) -> str:
        draws = " / ".join(f"{100 * share(records, draw=draw, **of):.0f}" for draw in range(DRAWS))
        whole = share(records, **of)
        return "-" if np.isnan(whole) else f"{100 * whole:.0f} ({draws})"

    lines = [[task, *(cell(task=task, length=length) for length in lengths)] for task in tasks]
    return ["task", *(f"{length:,}" for length in lengths)], lines


def found(value: float | None, counts: dict | None) -> str | None:
    """How many of the passkeys are found."""
    return counts and f"{sum(counts['right'])} of {sum(counts['asked'])}"


def beyond(content: dict) -> Table:
    """The loss of held-out text at the longest length: up to the trained length, and from there on."""
    task, trained = next(task for task in content["tasks"] if task["name"] == "loss"), content["trained_length"]
    edges = np.array(bucket_edges(task["lengths"][-1]))
    outside = edges[:-1] >= trained

    def mean(record: dict, where) -> str:
        losses = np.array(record["cells"][-1]["loss"], float)
        return f"{np.average(losses, axis=1, weights=np.diff(edges) * where).mean():.3f}"

    columns = ["method", "parameters", f"up to {trained:,}", f"from there to {edges[-1]:,}"]
    return columns, [
        [record["name"], record["how"], mean(record, ~outside), mean(record, outside)]
        for record in task["records"]
        if record["cells"][-1]
    ]


def placed(key: str, *before: str):
    """A function (content) -> Table of the records under `key`: what follows from placements, after other columns."""

    def of(content: dict) -> Table:
        ratios = {name.replace("_", " "): name for name in ("attention", "linear", "both", "with_sending")}
        columns = [*before, *ratios, "GB", "most GB", "padding %", "steps"]
        lines = [
            [record[name] for name in before]
            + [f"{record[name]:.3f}" for name in ratios.values()]
            + [record["bytes"] / 1e9, record["bytes_most"] / 1e9, f"{100 * record['padding']:.2f}", record["steps"]]
            for record in content[key]
        ]
        if "planning_ms" in content[key][0]:
            columns.append("ms")
            lines = [[*line, record["planning_ms"]] for line, record in zip(lines, content[key], strict=True)]
        return columns, lines

    return of


def packed(content: dict) -> Table:
    """Seconds, peak memory and padding of every way to pack, by the number of documents."""
    return pivoted([r | {"documents": f"{r['documents']:,}"} for r in content["records"]], *PACKED, planned)


def packed_rows(content: dict) -> Table:
    """Seconds, peak memory and padding of best_fit, by the tokens of a row."""
    return pivoted([r | {"row": f"{r['row']:,}"} for r in content["by_rows"]], ("lengths", "documents"), "row", planned)


def planned(record: dict) -> str:
    """A measurement of packing as a cell."""
    return " / ".join(
        f"{record[key]:{form}}" for key, form in (("seconds", ".1f"), ("gigabytes", ".1f"), ("padding", ".2g"))
    )


PACKED = ("lengths", "packing"), "documents"
COMPARED = columns_of(
    "compared",
    lengths="lengths",
    packing="packing",
    documents="documents",
    tokens="tokens",
    **{"s": "seconds", "peak GB": "gigabytes", "padding %": "padding"},
)
TPU = columns_of(
    "results", chip="chip", op="case.op", mask="case.mask", tokens="length", **{"predicted TFLOP/s": "tflops"}
)
DECODE = columns_of(
    "results",
    chip="chip",
    keys="length",
    **{"heads of": "model", "cycles computed": "computed", "cycles of arrival": "arriving"},
    **{"MiB copied": "mb", "MiB of keys and values": "keys_mb", "predicted us": "microseconds"},
)
STEPS = columns_of(
    "records",
    length="length",
    side="side",
    **{"s a step": "best_s", "x autodiff": "time_over_autodiff", "peak MB": "peak_mb"},
    **{"memory x autodiff": "memory_over_autodiff", "compile s": "compile_s"},
)
ATTENTION = columns_of(
    "records",
    length="length",
    dtype="dtype",
    side="side",
    **{"pass": "pass", "best s": "best_s", "x ours": "times_ours", "temporary MB": "temp_mb"},
)
LOADING = columns_of("records", mesh="mesh", dtype="dtype", seconds="seconds", **{"beside the arrays, MB": "beside_mb"})
TRAINING = columns_of(
    "records",
    length="length",
    side="side",
    dtype="dtype",
    **{"tokens/s": "tokens_per_s", "x PyTorch float32": "speed_over_torch_float32", "compile s": "compile_s"},
    **{"predicted / measured": "predicted_over_best"},
)
GENERATION = columns_of(
    "records",
    what="what",
    tokens="length",
    rows="rows",
    side="side",
    **{"tokens/s": "tokens_per_s", "ms a token": "ms_per_token", "x PyTorch": "speed_over_torch"},
    **{"peak MB": "peak_mb", "compile s": "compile_s"},
)
ASKING = columns_of(
    "records",
    way="way",
    tokens="length",
    **{"one question, s": "one_s", "eight, s": "several_s", "eight / one": "ratio"},
)
WINDOWED = columns_of("windowed", lengths="kind", shards="shards", together="together", window="window", full="full")
RANKS = columns_of(
    "ranks",
    lengths="kind",
    ranks="ranks",
    **{"as drawn": "drawn", "dealt": "dealt", "joined": "joined", "largest row": "largest"},
)
SEARCHED = columns_of("searched", solver="solver", draws="draws", mean="mean", worst="worst")
TIMED = columns_of(
    "timed", lengths="kind", documents="documents", solver="solver", ms="ms", **{"time / bound": "over_least"}
)
# by the name that a page gives
TABLES = {
    "targets": targets,
    "layouts": layouts,
    "layers": layers,
    "windowed": WINDOWED,
    "ranks": RANKS,
    "loops": loops,
    "decoding": decoding,
    "tpu": TPU,
    "decode": DECODE,
    "steps": STEPS,
    "attention": ATTENTION,
    "loading": LOADING,
    "training": TRAINING,
    "generation": GENERATION,
    "passkeys": extended("passkey", found),
    "losses": extended("loss", lambda value, counts: value and f"{value:.3f}"),
    "beyond": beyond,
    "generalised": generalised,
    "extrapolated": extrapolated,
    "asking": ASKING,
    "claimed": claimed,
    "learned": curricula_tables.learned,
    "taken": curricula_tables.taken,
    "positioned": curricula_tables.positioned,
    "contrasts": curricula_tables.contrasts,
    "placed": placed("records", "kind", "scheme"),
    "meshes": placed("meshes", "kind", "mesh"),
    "searched": SEARCHED,
    "timed": TIMED,
    "packed": packed,
    "packed_rows": packed_rows,
    "compared": COMPARED,
}


def rendered(page: str, folder: pathlib.Path = FOLDER) -> str:
    """The text of a page with its tables and origins as the JSON files in `folder` say.

    Raises UserError for a file that is not there or an unknown table.
    """
    return MARKER.sub(lambda match: _between(match, folder), page)


def _between(match: re.Match, folder: pathlib.Path) -> str:
    kind, file, name = match.groups()
    if not (folder / file).exists():
        files = ", ".join(sorted(path.name for path in folder.glob("*.json")))
        raise UserError(f"docs/results/{file} is not there; {files} are.")
    content = json.loads((folder / file).read_text())
    text = origin(file, content) if kind == "origin" else markdown(*table(content, name))
    return f"{match[0].splitlines()[0]}\n\n{text}\n\n<!-- end -->"


def table(content: dict, name: str) -> Table:
    """The Table of a JSON file's content that a page calls `name`."""
    given = content.get("tables", {})
    if name in given:
        return given[name]["columns"], given[name]["rows"]
    if name not in TABLES or given:
        raise unknown_name("table", name, given or TABLES)
    return TABLES[name](content)


def markdown(columns: list[str], rows: list[list]) -> str:
    """A table of Markdown; numbers to three digits, None as nothing."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value) -> str:
    if isinstance(value, float):
        return number(value)
    return "" if value is None else str(value).replace("|", "\\|")


def origin(file: str, content: dict) -> str:
    """Command, commit and machine of a JSON file, as a line of a page."""
    made = content["environment"]
    parts = [f"`{content['command']}`", f"commit {made['commit']}"]
    if made.get("cpu"):
        load = f", load {made['load_at_start']} at the start" if made.get("load_at_start") is not None else ""
        parts.append(f"{made['cpu']}, {made['threads']} threads{load}")
    versions = VERSIONS + (PEERS if content.get("benchmark") in BESIDE_PEERS else ())
    parts += [f"{name} {made[name]}" for name in versions if made.get(name)]
    parts += [made["date"]] if made.get("date") else []
    parts += [content[key] for key in ("note", "source") if content.get(key)]
    return f"*{'; '.join(parts)}. Numbers: [{file}]({file}).*"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say what is not current")
    check, stale = parser.parse_args(argv).check, []
    for path in sorted(FOLDER.glob("*.md")):
        page = path.read_text()
        current = rendered(page)
        if current != page:
            stale.append(path.name)
            if not check:
                path.write_text(current)
    print(f"{'not current' if check else 'rewritten'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(options.command(main))
