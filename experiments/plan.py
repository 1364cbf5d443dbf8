"""Plans a config for hardware that you need not have: does it fit, how long does a step take, what would be better.

    pip install -e '.[aot]'
    python -m experiments.plan --target h100x8 --config configs/longest.py:case=h100x8
    python -m experiments.plan --target h100x8 --config FILE --find-max-length
    python -m experiments.plan --target h100x8 --config FILE --compare=levers

Targets are TPU slices that libtpu knows, such as v5p:2x2x1, v5e:4x4 or v6e:16x16, and GPUs in nodes of 8, such as
h100x8, a800x8 or h200x32. The step of the longest stage that experiments.train would run is compiled with the compiler
of that hardware: seconds for GPUs, minutes for TPUs. Bytes and FLOPs are the compiler's; times are predicted from them
by assumptions that are printed too. Saves plan.json and plan.png in --workdir.

The TPU compiler refuses what does not fit on a device, and overstates temporaries a little; the GPU compiler refuses
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
    parser.add_argument("--target", required=True, help="the hardware, such as h100x8 or v5e:4x4")
    parser.add_argument("--find-max-length", action="store_true", help="find the longest row that fits")
    parser.add_argument("--compare", metavar="WHAT", help="rank variants of the config: strategies, meshes or levers")
    parser.add_argument(
        "--lengths",
        default="data",
        help="document lengths for attention.strategy=auto: data, document, web, code, prolong (default: %(default)s)",
    )
    parser.add_argument("--workdir", metavar="DIR", help="where to save (default: runs/NAME/plan-TARGET)")
    args, settings = parser.parse_with_settings(argv[1:])
    config, run = configs.from_command_line([argv[0], *settings])
    folder = pathlib.Path(args.workdir or run / f"plan-{args.target.replace(':', '-')}")
    places.check_folder("--workdir", folder)
    target = targets.target(args.target)
    from experiments.meter import rows
    from experiments.planner import auto, search, show

    rows.check(args.lengths)
    config = auto.settle(config, target, lambda stage: rows.of_lengths(config, stage, args.lengths))
    if args.compare:
        show.compared(
            *search.each(
                config,
                args.compare,
                lambda variant: search.plan_of(variant, target),
                lambda name, plan: print(f"{name}: {show.verdict(plan)}", file=sys.stderr),
            )
        )
        return
    if args.find_max_length:
        best = search.longest(config, target, lambda plan: print(show.verdict(plan), file=sys.stderr))
    else:
        best = search.plan_of(config, target)
    show.show(best)
    print("saved:", *show.save(best, folder))


if __name__ == "__main__":
    command.run(main)
