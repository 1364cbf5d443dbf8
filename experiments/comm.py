"""Counts the bytes that a training step moves between devices, compiled for hardware that you need not have.

    python -m experiments.comm --target cpu:8 --config FILE                 (simulated devices of this machine)
    pip install -e '.[aot]'
    python -m experiments.comm --target v5e:2x4 --config FILE --config.mesh.context=8
    python -m experiments.comm --target h100x8 --config FILE --compare=strategies

Targets are those of experiments.plan, and cpu:N. The step of the longest stage that experiments.train would run is
compiled and its collectives are read: attention's and all others, forward, recomputed and backward, by kind and mesh
axis, with the steps that wait for one another, the links that they cross and the fraction that the schedule puts beside
compute. Each is shown beside its closed form (longctx/context_parallel/cost.py). Then comes the balance of attention
under the layout, over rows of the config's data, or over documents as long as web pages, code or mixtures for long
contexts (--lengths web, code, prolong). Saves comm.json and comm.png in --workdir.
"""

import pathlib
import sys

from experiments.hardware import targets
from experiments.run import command
from experiments.settings import config as configs
from experiments.settings import places
from experiments.settings.console import Parser


def main(argv) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--target", required=True, help="the hardware, such as h100x8, v5e:4x4 or cpu:8")
    parser.add_argument("--compare", metavar="WHAT", help="rank variants of the config: strategies, meshes or levers")
    parser.add_argument(
        "--lengths",
        default="data",
        help="document lengths for the balance: data, document, web, code, prolong (default: %(default)s)",
    )
    parser.add_argument("--workdir", metavar="DIR", help="where to save (default: runs/NAME/comm-TARGET)")
    args, settings = parser.parse_with_settings(argv[1:])
    config, run = configs.from_command_line([argv[0], *settings])
    folder = pathlib.Path(args.workdir or run / f"comm-{args.target.replace(':', '-')}")
    places.check_folder("--workdir", folder)
    target = targets.target(args.target, simulate=True)
    from experiments.meter import measure, rows, show
    from experiments.planner import auto, search

    rows.check(args.lengths)
    config = auto.settle(config, target, lambda stage: rows.of_lengths(config, stage, args.lengths))
    if args.compare:
        report = lambda name, meter: print(f"{name}: compiled in {meter.seconds_to_compile:.0f} s", file=sys.stderr)
        meters, failed = search.each(config, args.compare, lambda variant: measure.measure(variant, target), report)
        show.compared(meters, failed)
    else:
        meters, failed = {config.attention.strategy: measure.measure(config, target, args.lengths)}, {}
        show.show(*meters.values())
    if meters:
        print("saved:", *show.save(meters, failed, folder))


if __name__ == "__main__":
    command.run(main)
