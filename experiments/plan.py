"""Plans a config for hardware that you need not have: does it fit, how long does a step take, what would be better.

    pip install -e '.[aot]'
    python -m experiments.plan --target h100x8 --config configs/longest.py:case=h100x8
    python -m experiments.plan --target h100x8 --config FILE --find-max-length
    python -m experiments.plan --target h100x8 --config FILE --compare=levers
    python -m experiments.plan --target h100x64 --config FILE --placing --lengths web
    python -m experiments.plan --target cpu --config configs/quickstart.py

Targets are TPU slices that libtpu knows, such as v5p:2x2x1, v5e:4x4 or v6e:16x16, GPUs in nodes of 8, such as h100x8,
a800x8 or h200x32, and `cpu`, the processor of this machine. The step of the longest stage that experiments.train would
run is compiled with the compiler of that hardware: seconds for GPUs, minutes for TPUs. Bytes and FLOPs are the
compiler's; times are predicted from them by assumptions that are printed too; for `cpu` from the times of the parts,
measured one by one. --placing compiles nothing: it compares schemes that place the documents of a step on devices,
and what attention.across_rows would change. Saves plan.json and plan.png in --workdir.

The TPU compiler refuses what does not fit on a device, and overstates temporaries a little; the GPU compiler refuses
nothing: there 9/10 of the memory is the limit.
"""

import sys

from experiments.planner.command import parse, parser
from experiments.run import command


def main(argv) -> None:
    options = parser(__doc__)
    options.add_argument("--find-max-length", action="store_true", help="find the longest row that fits")
    options.add_argument("--placing", action="store_true", help="compare schemes that place documents on devices")
    request = parse(options, argv, "plan")
    from experiments.planner import placed, search, show

    if request.options.placing:
        placed.show(request)
        return
    if request.options.compare:
        make = lambda variant: search.plan_of(variant, request.target)
        report = lambda name, plan: print(f"{name}: {show.verdict(plan)}", file=sys.stderr)
        show.compared(*search.each(request.config, request.options.compare, make, report))
        return
    if request.options.find_max_length:
        best = search.longest(request.config, request.target, lambda plan: print(show.verdict(plan), file=sys.stderr))
    else:
        best = search.plan_of(request.config, request.target)
    show.show(best)
    print("saved:", *show.save(best, request.folder))


if __name__ == "__main__":
    command.run(main)
