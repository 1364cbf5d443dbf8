"""Which token sits on which context shard: api.py has the names, simple.py and balanced.py the layouts."""

from longctx.layouts.api import (
    CAUSAL,
    LAYOUTS,
    Arrangement,
    Reaches,
    arrange,
    check,
    check_stages,
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
    "Arrangement",
    "Reaches",
    "arrange",
    "check",
    "check_stages",
    "inverse",
    "lay_out",
    "parse",
    "permutation",
    "permute",
    "unit",
]
