"""Asks a pretrained model what analyses of long context are about: many classes, chains of facts, where a fact stands.

    python -m experiments.bench.claims --checkpoint MODEL --lengths 1024,4096 --workdir DIR \\
        --out claims.json --picture claims.png

It is `experiments.evaluate --suite claims`, and goes on from what is in its workdir; then it counts the answers. The
claims: with the number of classes in-context learning fails long before the context is full (LongICLBench, arXiv
2404.02060); a chain of facts holds out to shorter lengths than one fact does (Needle Threading, arXiv 2411.05000);
facts in the middle are found less often than those at the ends (Lost in the Middle, arXiv 2307.03172). The samples are
three draws, told apart in the picture.
"""

import json
import pathlib
import sys

from experiments.bench.harness import options, record
from experiments.pictures import claims as figures
from experiments.pictures.claims import CLASSES, DRAWS, FACTS, PARTS, THREADS, share
from experiments.settings import console, places


def counted(lines: list[dict]) -> list[dict]:
    """The lines of samples.jsonl, by task, length and draw: asked and right, each by part of the context.

    What stands in no part is counted behind the parts.
    """
    found: dict[tuple, dict] = {}
    for line in lines:
        key = {"task": line["task"], "length": line["length"], "draw": line["index"] % DRAWS}
        cell = found.setdefault(tuple(key.values()), {**key, "asked": [0] * (PARTS + 1), "right": [0.0] * (PARTS + 1)})
        for query in line["queries"]:
            part = PARTS if query["depth"] is None else min(int(query["depth"] * PARTS), PARTS - 1)
            cell["asked"][part] += 1
            cell["right"][part] += query["score"]
    return [found[key] for key in sorted(found)]


def main(argv: list[str] | None = None) -> int:
    parser = options.parser(__doc__, out=None)
    parser.add_argument("--checkpoint", required=True, metavar="MODEL", help="as experiments.evaluate takes it")
    parser.add_argument("--lengths", default="1024,2048,4096", help="in tokens, with commas (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=3, help="of each draw, task and length (default: %(default)s)")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the folder of the evaluation")
    parser.add_argument("--picture", metavar="FILE.png", help="draw the results here")
    parser.add_argument("settings", nargs="*", metavar="config.NAME=VALUE", help="of experiments.evaluate")
    args = parser.parse_args(argv)
    for name in ("out", "picture"):
        places.check_file(f"--{name}", getattr(args, name))
    from experiments import evaluate

    environment = record.environment()
    given = ["--checkpoint", args.checkpoint, "--lengths", args.lengths, "--workdir", args.workdir, "--suite", "claims"]
    changed = [f"--config.eval.samples={DRAWS * args.samples}", *(f"--{setting}" for setting in args.settings)]
    evaluate.main(["evaluate", *given, *changed])
    _, *lines = (pathlib.Path(args.workdir) / "samples.jsonl").read_text().splitlines()  # the first says of which model
    records = counted([json.loads(line) for line in lines])
    lengths = sorted({r["length"] for r in records})
    tasks = dict.fromkeys((*CLASSES, *THREADS, *FACTS))
    rows = [(task, *(f"{share(records, task=task, length=length):.0%}" for length in lengths)) for task in tasks]
    print(console.table(("right answers", *(f"{length:,}" for length in lengths)), rows))
    record.write(args.out, {"benchmark": "claims", "environment": environment, "records": records})
    if args.picture:
        figures.claims(records).savefig(pathlib.Path(args.picture), dpi=200)
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
