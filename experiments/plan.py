"""Whether a config fits hardware that is not here, how long a step takes there, and what would be better.

    pip install -e '.[aot]'
    python -m experiments.plan --target h100x8 --config configs/longest.py:case=h100x8
    python -m experiments.plan --target h100x8 --config FILE --find-max-length
    python -m experiments.plan --target h100x8 --config FILE --compare=levers      (strategies, meshes)

Targets: v5p:2x2x1, v5e:4x4, v6e:16x16 and so on, TPU slices that libtpu knows; h100x8, a800x8, h200x32 and so on, GPUs,
8 to a node. Compiles the step of the longest stage that experiments.train would run, with the compiler of that
hardware: seconds for GPUs, minutes for TPUs. Bytes and FLOPs are the compiler's; a time is predicted from them by
assumptions that are printed with it. Saves plan.json and plan.png in --workdir, default runs/NAME/plan-TARGET.

The TPU compiler refuses what does not fit on a device, and overstates temporaries a little; the one for GPUs refuses
nothing: there 9/10 of the memory is the limit.
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
    parser.add_argument("--find-max-length", action="store_true")
    parser.add_argument("--compare", metavar="WAYS")
    parser.add_argument("--lengths", default="data", help="data, document, web, code, prolong (default: %(default)s)")
    parser.add_argument("--workdir")
    asked, settings = parser.parse_with_settings(argv[1:])
    config, run = configs.from_command_line([argv[0], *settings])
    folder = pathlib.Path(asked.workdir or run / f"plan-{asked.target.replace(':', '-')}")
    places.check_folder("--workdir", folder)
    target = targets.target(asked.target)
    from experiments.meter import rows
    from experiments.planner import auto, search, show

    rows.check(asked.lengths)
    config = auto.settle(config, target, lambda stage: rows.of_lengths(config, stage, asked.lengths))
    if asked.compare:
        show.compared(
            *search.each(
                config,
                asked.compare,
                lambda variant: search.plan_of(variant, target),
                lambda name, one: print(f"{name}: {show.verdict(one)}", file=sys.stderr),
            )
        )
        return
    if asked.find_max_length:
        best = search.longest(config, target, lambda one: print(show.verdict(one), file=sys.stderr))
    else:
        best = search.plan_of(config, target)
    show.show(best)
    print("saved:", *show.save(best, folder))


if __name__ == "__main__":
    command.run(main)
