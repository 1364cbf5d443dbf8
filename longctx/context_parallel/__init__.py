"""Attention over a sequence that is cut across devices: `attend` and `attention`, and a file for each strategy.

`attention` takes a sequence in its natural order, `attend` one that a layout has put in its order already. STRATEGIES
names the ways to cut; a strategy is a subclass of `Strategy`.
"""

from typing import Any

from pallas_kernels import lazy

NAMES = {
    "CallPlan": "longctx.context_parallel.plan:CallPlan",
    "STRATEGIES": "longctx.context_parallel.api:STRATEGIES",
    "Strategy": "longctx.context_parallel.strategy:Strategy",
    "attend": "longctx.context_parallel.api:attend",
    "attention": "longctx.context_parallel.api:attention",
    "check": "longctx.context_parallel.api:check",
    "plan_of": "longctx.context_parallel.api:plan_of",
}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first asked for, or a module of this package."""
    return lazy.load(__name__, NAMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
