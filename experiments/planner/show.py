"""Tables, JSON and a picture of a plan."""

import dataclasses
import json
import pathlib

from rich.console import Console
from rich.table import Table

from experiments.hardware.targets import GIB
from experiments.planner.plan import Plan

_LEGEND = dict(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, frameon=False, fontsize="small")


def summary(plan: Plan) -> dict:
    """The numbers of a plan, for plan.json: bytes per device, FLOPs of all devices, seconds."""
    record = {
        "target": plan.target.name,
        "mesh": str(plan.config.mesh),
        "seq_len": plan.stage.seq_len,
        "batch_size": plan.stage.batch_size,
        "fits": plan.fits,
        "compile_s": round(plan.seconds_to_compile, 1),
    }
    if plan.refused:
        return record | {"refused": plan.refused}
    return record | {
        "memory": [dataclasses.asdict(use) for use in plan.memory],
        "device": {"bytes": plan.used(False), "limit": plan.limit(False)},
        "host": {"bytes": plan.used(True), "limit": plan.limit(True)},
        "flops": _flops(plan),
        "kernels": dict(plan.kernels),
        "links": [dataclasses.asdict(link) for link in plan.time.links],
        "predicted": _predicted(plan),
    }


def _flops(plan: Plan) -> dict:
    return {
        "model": plan.work.model,
        "weight_matmuls": plan.work.matmuls,
        "recomputed": plan.work.recomputed,
        "compiled_matmuls": plan.compiled_matmuls,
        "attention_forward": plan.work.forward,
        "attention_forwards": plan.work.times,
        "attention_backward": plan.work.backward,
    }


def _predicted(plan: Plan) -> dict:
    return {
        "step_s": plan.time.step,
        "matmuls_s": plan.time.matmuls,
        "exposed_s": plan.time.exposed,
        "attention_forward_s": plan.time.attention_forward,
        "mfu": plan.mfu,
        "attention_backward_s": plan.time.attention_backward,
        "passes_s": plan.time.passes,
        "assumptions": plan.assumptions,
    }


def verdict(plan: Plan) -> str:
    """A line on a plan: whether it fits, by how much, and the predicted time of a step."""
    subject = f"{plan.stage.batch_size} x {plan.stage.seq_len:,} tokens on {plan.target.name}"
    if plan.refused:
        return f"{subject}: does not fit; the compiler says: {plan.refused}"
    usage = lambda on_host: f"{plan.used(on_host) / GIB:.1f} of {plan.limit(on_host) / GIB:.1f} GiB"
    return (
        f"{subject}: {'fits' if plan.fits else 'does not fit'}; device {usage(False)}, host {usage(True)} (compiled); "
        f"a step {plan.time.step:,.3g} s, MFU {plan.mfu:.0%} (predicted)"
    )


def show(plan: Plan, console: Console | None = None) -> None:
    """Prints the verdict on a plan and the tables behind it."""
    console = console or Console()
    console.print(verdict(plan), highlight=False, soft_wrap=True)
    if plan.refused:
        return
    for table in (_memory(plan), _work(plan), _links(plan)):
        console.print(table)
    console.print("Predicted, not measured, assuming that " + "; ".join(plan.assumptions) + ".", soft_wrap=True)


def save(plan: Plan, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes plan.json, and plan.png where there is something to draw; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "plan.json"]
    paths[0].write_text(json.dumps(summary(plan), indent=1) + "\n")
    if not plan.refused:
        paths.append(folder / "plan.png")
        _picture(plan, paths[1])
    return paths


def compared(plans: dict[str, Plan], failed: dict[str, str], console: Console | None = None) -> None:
    """Prints named plans, the fastest that fits first, and the reasons why others could not be made."""
    rows = sorted(plans.items(), key=lambda item: (not item[1].fits, item[1].time.step if item[1].time else 0))
    table = _table("variant", "fits", "device GiB", "host GiB", "step s", "MFU", "bottleneck")
    for name, plan in rows:
        numbers = (
            ["-"] * 4
            if plan.refused
            else [
                f"{plan.used(False) / GIB:.1f}",
                f"{plan.used(True) / GIB:.1f}",
                f"{plan.time.step:.4g}",
                f"{plan.mfu:.1%}",
            ]
        )
        table.add_row(name, "yes" if plan.fits else "no", *numbers, _bottleneck(plan))
    console = console or Console()
    console.print(table)
    for name, reason in failed.items():
        console.print(f"{name}: {reason}", highlight=False, soft_wrap=True)


def _bottleneck(plan):
    """The memory that is too small, else the largest part of the time."""
    if plan.refused or plan.used(False) > plan.limit(False):
        return "device memory"
    if plan.used(True) > plan.limit(True):
        return "host memory"
    return max(_seconds(plan).items(), key=lambda item: item[1])[0]


def _seconds(plan):
    return {
        "weight matmuls": plan.time.matmuls,
        "attention forward": plan.time.attention_forward,
        "attention backward": plan.time.attention_backward,
        "passes over memory": plan.time.passes,
        "waiting for links": plan.time.exposed,
    }


def _table(*columns):
    table = Table(box=None, header_style="bold")
    for i, column in enumerate(columns):
        words = i == 0 or column == "bottleneck"
        table.add_column(column, justify="left" if words else "right", no_wrap=words)
    return table


def _memory(plan):
    table = _table("GiB of each", "device", "host")
    kinds = list(dict.fromkeys(use.kind for use in plan.memory))
    size = lambda kind, on_host: sum(use.bytes for use in plan.memory if (use.kind, use.on_host) == (kind, on_host))
    for kind in kinds:
        table.add_row(kind, *(f"{size(kind, on_host) / GIB:.2f}" for on_host in (False, True)))
    table.add_row("all", *(f"{plan.used(on_host) / GIB:.2f}" for on_host in (False, True)))
    table.add_row("available", *(f"{plan.limit(on_host) / GIB:.2f}" for on_host in (False, True)))
    return table


def _work(plan):
    table, work = _table("of one step", "PFLOP, all devices", "s, predicted"), plan.work
    flops = {
        "weight matmuls": work.matmuls + work.recomputed,
        "attention forward": work.forward * work.times,
        "attention backward": work.backward,
    }
    for name, seconds in _seconds(plan).items():
        table.add_row(name, f"{flops[name] / 1e15:.4g}" if name in flops else "", f"{seconds:.4g}")
    table.add_row("what the model asks for", f"{work.model / 1e15:.4g}", "")
    table.add_row("weight matmuls in the program", f"{plan.compiled_matmuls / 1e15:.4g}", "")
    return table


def _links(plan):
    table = _table("leaving or reaching a device", "GB", "beside compute", "s, predicted")
    for link in plan.time.links:
        name = f"{link.kind} ({', '.join(link.axes)})" if link.axes else link.kind
        table.add_row(name, f"{link.bytes / 1e9:.4g}", f"{link.overlapped:.0%}", f"{link.seconds:.3g}")
    return table


def _picture(plan, path):
    """Draws stacked bars: memory used on a device and on its share of the host, with the limits; a step's seconds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 4.5), layout="constrained")
    kinds = dict.fromkeys(use.kind for use in plan.memory)
    for axis, on_host, title in zip(axes, (False, True), ("device", "share of the host"), strict=False):
        sizes = {use.kind: use.bytes / GIB for use in plan.memory if use.on_host == on_host}
        _bar(axis, {kind: sizes.get(kind, 0.0) for kind in kinds}, f"{title}, GiB (compiled)")
        axis.axhline(plan.limit(on_host) / GIB, color="black", linestyle="--", linewidth=1, label="available")
        axis.set_ylim(0, 1.05 * max(plan.limit(on_host), plan.used(on_host)) / GIB)
        axis.legend(**_LEGEND)
    _bar(axes[2], _seconds(plan), f"a step, s (predicted): MFU {plan.mfu:.0%}")
    axes[2].legend(**_LEGEND)
    figure.suptitle(f"{plan.config.name}: {plan.stage.seq_len:,} tokens on {plan.target.name}, {plan.config.mesh}")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _bar(axis, parts, title):
    """Draws one stacked bar. A part's colour follows from its index, whichever parts are 0."""
    bottom = 0.0
    for i, (name, size) in enumerate(parts.items()):
        if size > 0:
            axis.bar(0, size, bottom=bottom, width=0.5, label=name, color=f"C{i}")
            bottom += size
    axis.set_title(title)
    axis.set_xticks([])
    axis.set_xlim(-1, 1)
