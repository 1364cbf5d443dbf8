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

from experiments import config as configs
from experiments import hardware
from longctx.errors import UserError


def main(argv) -> None:
    target_name, argv = _taken(argv, "--target")
    if not target_name:
        raise UserError("--target is missing; --target h100x8 or --target v5p:2x2x1 work.")
    compare, argv = _taken(argv, "--compare")
    find = "--find-max-length" in argv
    config, workdir = configs.from_command_line([one for one in argv if one != "--find-max-length"])
    target = hardware.target(target_name)
    from experiments.planner import search, show
    if compare:
        _compare(config, target, compare, search, show)
        return
    if find:
        best = search.longest(config, target, lambda one: print(show.verdict(one), file=sys.stderr))
    else:
        best = search.plan_of(config, target)
    show.show(best)
    folder = workdir if any(one.startswith("--workdir") for one in argv) else (
        pathlib.Path(workdir) / f"plan-{target_name.replace(':', '-')}")
    print("saved:", *show.save(best, pathlib.Path(folder)))


def _compare(config, target, what, search, show) -> None:
    plans, failed = {}, {}
    for name, variant in search.variants(config, what).items():
        try:
            plans[name] = search.plan_of(variant, target)
            print(f"{name}: {show.verdict(plans[name])}", file=sys.stderr)
        except UserError as error:
            failed[name] = str(error)
    show.compared(plans, failed)


def _taken(argv: list[str], flag: str) -> tuple[str, list[str]]:
    """The value of a flag, "" without it, and the other arguments."""
    for i, one in enumerate(argv):
        if one == flag and i + 1 < len(argv):
            return argv[i + 1], argv[:i] + argv[i + 2:]
        if one.startswith(flag + "="):
            return one.partition("=")[2], argv[:i] + argv[i + 1:]
    return "", argv


if __name__ == "__main__":
    configs.run(main)
