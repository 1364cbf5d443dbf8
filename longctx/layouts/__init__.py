"""Which token sits on which context shard: api.py has the names, simple.py and balanced.py the layouts."""

from longctx.layouts.api import (
    CAUSAL,
    LAYOUTS,
    WITH_WIDTH,
    Reaches,
    check,
    inverse,
    lay_out,
    parse,
    permutation,
    permute,
    unit,
)

__all__ = [
    "CAUSAL",
    "LAYOUTS",
    "WITH_WIDTH",
    "Reaches",
    "check",
    "inverse",
    "lay_out",
    "parse",
    "permutation",
    "permute",
    "unit",
]
