"""Bytes that a function's collectives send from each device, counted in its jaxpr."""

import math

import jax


def sent_bytes(f, *args, rounds: int | None = None) -> float:
    """Bytes leaving a device on an ideal ring, over one call of f: loops as often as they run.

    rounds: how often one runs whose length is not known before. Of a ragged all-to-all, all places for what is sent.
    Raises ValueError on a loop of unknown length without them.
    """
    return _count(jax.make_jaxpr(f)(*args).jaxpr, rounds)


def _count(jaxpr, rounds) -> float:
    return sum(_sent(eqn, rounds) for eqn in jaxpr.eqns)


def _sent(eqn, rounds) -> float:
    size = sum(math.prod(x.aval.shape) * x.aval.dtype.itemsize for x in eqn.invars if hasattr(x.aval, "shape"))
    match eqn.primitive.name:
        case "ppermute":
            return size
        case "all_gather":
            return size * (eqn.params["axis_size"] - 1)
        case "all_to_all" | "reduce_scatter":
            shards = eqn.params.get("axis_size") or _shards(eqn)
            return size * (shards - 1) / shards
        case "ragged_all_to_all":
            places = eqn.invars[0].aval
            return places.size * places.dtype.itemsize
        case "scan":
            return eqn.params["length"] * _count(eqn.params["jaxpr"].jaxpr, rounds)
        case "while":
            inside = _count(eqn.params["body_jaxpr"].jaxpr, rounds)
            if inside and rounds is None:
                raise ValueError("collectives in a loop of unknown length")
            return inside and inside * rounds
        case "cond":
            return max(_count(branch.jaxpr, rounds) for branch in eqn.params["branches"])
    inner = [value for value in eqn.params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
    return sum(_count(getattr(value, "jaxpr", value), rounds) for value in inner)


def _shards(eqn) -> int:
    """The number of shards of an all-to-all: its two shapes tell."""
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    return next(a // b for a, b in zip(after, before, strict=True) if a > b)
