"""Plans the longest exact training on each hardware of configs/longest.py, and prints a Markdown table.

    pip install -e '.[aot]'
    python -m experiments.bench.longest [--cases h100x8,v5e] [--out FOLDER]

Keeps each case's plan in FOLDER, default runs/longest. GPUs take half a minute each, TPUs minutes.
"""

import json
import os
import pathlib
import runpy
import subprocess
import sys

from experiments.hardware.targets import GIB
from experiments.run import command
from experiments.settings import places
from experiments.settings.console import Parser, names
from longctx.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "configs/longest.py"
HEADER = (
    "case, target",
    "tokens",
    "fits",
    "k",
    "device: arguments and temporaries, of",
    "host, of",
    "step, h (predicted)",
    "MFU (predicted)",
)


def main(argv) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--cases", default="", help="with commas (default: all)")
    parser.add_argument("--out", default="runs/longest", metavar="FOLDER", help="(default: %(default)s)")
    args = parser.parse_args(argv[1:])
    places.check_folder("--out", args.out)
    cases = runpy.run_path(str(ROOT / CONFIG))["CASES"]
    chosen = names("--cases", args.cases, cases) if args.cases else list(cases)
    print(_line(HEADER), _line(["---"] * len(HEADER)), sep="\n")
    for name in chosen:
        plan = _plan(name, cases[name].target, pathlib.Path(args.out, name))
        print(_line(_row(name, cases[name], plan)), flush=True)


def _plan(name: str, target: str, folder: pathlib.Path) -> dict:
    """The content of plan.json for a case, planned in a process of its own, since a process loads one compiler."""
    command = [
        sys.executable,
        "-m",
        "experiments.plan",
        "--target",
        target,
        "--config",
        f"{CONFIG}:case={name}",
        "--workdir",
        str(folder.absolute()),
    ]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, text=True, capture_output=True)
    if done.returncode:
        raise UserError(f"planning {name} failed: {done.stderr.strip().splitlines()[-1].removeprefix('error: ')}")
    return json.loads((folder / "plan.json").read_text())


def _row(name, case, plan):
    fits, tokens = "yes" if plan["fits"] else "no", f"{plan['seq_len'] / 1e6:.3g}M"
    start = [f"{name}, {case.target}", tokens, fits, case.kept_every]
    if "refused" in plan:
        return [*start, plan["refused"], "-", "-", "-"]
    usage = lambda memory: f"{plan[memory]['bytes'] / GIB:.1f}, {plan[memory]['limit'] / GIB:.1f}"
    predicted = plan["predicted"]
    return [*start, usage("device"), usage("host"), f"{predicted['step_s'] / 3600:.2g}", f"{predicted['mfu']:.0%}"]


def _line(cells):
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    command.run(main)
