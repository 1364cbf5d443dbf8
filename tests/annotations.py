"""Shapes and types in annotations, checked in the main tier by beartype: jaxtyping's hook calls `checked` in MODULES.

What a public function took and gave is checked when it returns. So its own errors, which say more, come first; and a
call that it should have refused is found here. Letters mean one size in all arguments and results of a call, also
inside of named tuples: their fields are checked as annotated, except those that are None, which a call leaves out.
"""

import functools
import types
from typing import Annotated, Any, Union, get_args, get_origin

import beartype
import jax
import numpy as np
from beartype.door import is_bearable
from beartype.vale import Is
from jaxtyping import AbstractArray

MODULES = [
    "longctx.context_parallel.api",
    "longctx.layouts.api",
    "longctx.loss",
    "longctx.model.functional",
    "longctx.positions.api",
    "longctx.ragged",
    "longctx.shift",
    "pallas_kernels.attention.api",
    "pallas_kernels.attention.pair",
    "pallas_kernels.attention.tpu.decode",
    "pallas_kernels.cross_entropy.api",
    "pallas_kernels.masks",
]
_checks = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int is a float, too


def checked(function):
    """A function that takes what the annotated one takes, and what it gave: checks both. See jaxtyping.jaxtyped.

    jaxtyping also asks for one that takes arguments alone, whose result is Any: that one checks nothing.
    """
    public = not function.__name__.startswith("_")
    if public and function.__annotations__.get("return", Any) is not Any:
        function.__annotations__ = {name: with_fields(hint) for name, hint in function.__annotations__.items()}
        function = _checks(function)
    return function


@functools.cache
def with_fields(hint):
    """The annotation, in which a named tuple stands for its fields too, and an array of jax's may be one of numpy's."""
    if hint is jax.Array:
        return hint | np.ndarray
    if isinstance(hint, type) and issubclass(hint, AbstractArray) and hint.array_type is jax.Array:
        return hint.dtype[jax.Array | np.ndarray, hint.dim_str]
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return Annotated[hint, Is[lambda value: all(map(_fits, value, hint.__annotations__.values()))]]
    if get_origin(hint) in (Union, types.UnionType):
        return functools.reduce(lambda a, b: a | b, map(with_fields, get_args(hint)))
    if get_origin(hint) is tuple:
        return tuple[tuple(x if x is ... else with_fields(x) for x in get_args(hint))]
    return hint


def _fits(value, hint) -> bool:
    """Whether a field is as annotated. In the place of an array may be its type alone, or a tuple of several arrays."""
    if value is None or isinstance(value, jax.ShapeDtypeStruct) or is_bearable(value, with_fields(hint)):
        return True
    return type(value) is tuple and get_origin(hint) is not tuple and all(_fits(part, hint) for part in value)
