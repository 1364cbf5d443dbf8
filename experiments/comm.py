"""What a config's training step moves between devices: bytes leaving each, compiled for hardware that need not be here.

    python -m experiments.comm --target cpu:8 --config FILE                 (simulated devices of this machine)
    pip install -e '.[aot]'
    python -m experiments.comm --target v5e:2x4 --config FILE --config.mesh.context=8
    python -m experiments.comm --target h100x8 --config FILE --compare=strategies      (meshes, levers)

Targets as of experiments.plan, and cpu:N. Compiles the step of the longest stage that experiments.train would run and
reads its collectives: of attention and of all else, forward, recomputed and backward, by kind and mesh axis, with the
steps that wait for one another, the links they cross and what the schedule puts beside compute. Beside each stands
the closed form (longctx/context_parallel/cost.py). Below them, how even the layout is over rows of the config's data,
or with --lengths web, code or prolong over documents as long as those of web pages, of code, and of mixtures for long
contexts. Saves comm.json and comm.png in --workdir, default runs/NAME/comm-TARGET.
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
    parser.add_argument("--target", required=True)
    parser.add_argument("--compare", metavar="WAYS")
    parser.add_argument("--lengths", default="data", help="data, document, web, code, prolong (default: %(default)s)")
    parser.add_argument("--workdir")
    asked, settings = parser.parse_with_settings(argv[1:])
    config, run = configs.from_command_line([argv[0], *settings])
    folder = pathlib.Path(asked.workdir or run / f"comm-{asked.target.replace(':', '-')}")
    places.check_folder("--workdir", folder)
    target = targets.target(asked.target, simulate=True)
    from experiments.meter import measure, rows, show
    from experiments.planner import auto, search

    rows.check(asked.lengths)
    config = auto.settle(config, target, lambda stage: rows.of_lengths(config, stage, asked.lengths))
    if asked.compare:
        compiled = lambda name, one: print(f"{name}: compiled in {one.seconds_to_compile:.0f} s", file=sys.stderr)
        meters, failed = search.each(config, asked.compare, lambda variant: measure.measure(variant, target), compiled)
        show.compared(meters, failed)
    else:
        meters, failed = {config.attention.strategy: measure.measure(config, target, asked.lengths)}, {}
        show.show(*meters.values())
    if meters:
        print("saved:", *show.save(meters, failed, folder))


if __name__ == "__main__":
    command.run(main)
