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

import sys

from experiments.planner.command import parse, parser
from experiments.run import command


def main(argv) -> None:
    request = parse(parser(__doc__), argv, "comm", simulate=True)
    from experiments.meter import measure, show
    from experiments.planner import search

    config, target, failed = request.config, request.target, {}
    if request.options.compare:
        make = lambda variant: measure.measure(variant, target)
        report = lambda name, meter: print(f"{name}: compiled in {meter.seconds_to_compile:.0f} s", file=sys.stderr)
        meters, failed = search.each(config, request.options.compare, make, report)
        show.compared(meters, failed)
    else:
        meters = {config.attention.strategy: measure.measure(config, target, request.options.lengths)}
        show.show(*meters.values())
    if meters:
        print("saved:", *show.save(meters, failed, request.folder))


if __name__ == "__main__":
    command.run(main)
