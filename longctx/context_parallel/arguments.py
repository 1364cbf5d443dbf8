"""Checks of the arguments of `attention`: shapes and dtypes always, values where they are known already."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from longctx import cuts
from longctx.config import DTYPES, AttentionConfig
from longctx.errors import UserError, as_user_error, unknown_name
from pallas_kernels.arguments import known, require_floats, require_whole, said
from pallas_kernels.attention import api as kernels
from pallas_kernels.attention.arguments import as_jax, check_arrays, check_bias_params, checked_info
from pallas_kernels.attention.pair import Inputs
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import MOST, TokenInfo


def inputs(q, k, v, info: TokenInfo, bias_params=None) -> Inputs:
    """Inputs of jax arrays, in which q and k are tuples of one array for each part of the pairs of tokens.

    info: positions and segments of queries and keys alike, which are of the same tokens; None stays None.
    Raises UserError for arrays that do not go together; both are named.
    """
    queries, keys = (tuple(map(as_jax, x)) if isinstance(x, tuple) else (as_jax(x),) for x in (q, k))
    if len(queries) != len(keys):
        raise UserError(f"q has {len(queries)} parts and k has {len(keys)}: there must be one of each for every part.")
    v = as_jax(v)
    for i, (q, k) in enumerate(zip(queries, keys, strict=True)):
        names = ("q", "k") if len(queries) == 1 else (f"q[{i}]", f"k[{i}]")
        as_user_error(check_arrays, q, k, v, *names)
        of_q, of_k = (said(*both) for both in zip(names, (q, k), strict=True))
        if q.shape[1] != k.shape[1]:
            raise UserError(
                f"{of_q} and {of_k}: queries and keys must be of the same T tokens; for others there is "
                "pallas_kernels.attention.api.attention, on one device."
            )
        if q.shape != queries[0].shape:
            raise UserError(f"{said('q[0]', queries[0])} and {of_q}: all parts must be of one shape.")
    info = as_user_error(checked_info, info, queries[0], "q")
    return Inputs(queries, keys, v, info, info, None if bias_params is None else jnp.asarray(bias_params))


def check_runs(segments) -> None:
    """Raises UserError unless each document is one run of tokens, where segments [B, T] are given and known."""
    if segments is None or (ids := known(segments)) is None:
        return
    starts = ids != np.pad(ids, ((0, 0), (1, 0)))[:, :-1]
    for row, (row_ids, start) in enumerate(zip(ids, starts, strict=True)):
        numbers, runs = np.unique(row_ids[start & (row_ids > 0)], return_counts=True)
        if (runs > 1).any():
            raise UserError(
                f"row {row} of {said('segments', segments)} comes back to document "
                f"{numbers[runs > 1][0]}: each must be one run of tokens."
            )


def specs(mask, x: Inputs, sinks, **fields) -> tuple[AttentionSpec, ...]:
    """The spec of every part of the pairs. fields: scale, bias and soft_cap. Raises UserError."""
    masks, parts, heads = mask if isinstance(mask, tuple) else (mask,), len(x.q), x.q[0].shape[2]
    if len(masks) != parts:
        raise UserError(
            f"mask has {len(masks)} parts, and q and k have {parts}: there must be one of each for every part."
        )
    made = tuple(as_user_error(AttentionSpec, part, partial=parts > 1, **fields) for part in masks)
    as_user_error(check_bias_params, fields["bias"], x.bias_params, heads)
    if sinks is not None:
        as_user_error(require_floats, "sinks", sinks, "N")
        if len(sinks) != heads:
            raise UserError(f"{said('sinks', sinks)} must be of the shape [N], [{heads}].")
    return made


def check_names(how: AttentionConfig, strategies) -> None:
    """Raises UserError for a strategy, a kernel or a dtype that is not known."""
    if how.strategy not in strategies:
        raise unknown_name("attention.strategy", how.strategy, strategies)
    if how.kernel != "auto" and how.kernel not in kernels.IMPLEMENTATIONS:
        raise unknown_name("attention.kernel", how.kernel, {"auto", *kernels.IMPLEMENTATIONS})
    if how.kv_grads_dtype not in DTYPES:
        raise unknown_name("kv_grads_dtype", how.kv_grads_dtype, DTYPES)


def check_mesh(x: Inputs, sizes: Mapping[str, int], head_groups: int) -> None:
    """Raises UserError unless the axes of the mesh, of these sizes, divide queries and keys."""
    as_user_error(require_whole, "head_groups", head_groups, 1, MOST)
    q, k = x.q[0], x.v
    rows, parts, kv_heads = sizes["data"] * sizes["fsdp"], sizes["tensor"], k.shape[2]
    if q.shape[0] % rows:
        raise UserError(
            f"{said('q', q)}: mesh.data={sizes['data']} x mesh.fsdp={sizes['fsdp']} must divide the "
            f"{q.shape[0]} rows; {-(-q.shape[0] // rows) * rows} rows work."
        )
    if kv_heads % (parts * head_groups):
        raise UserError(
            f"{said('k', k)}: mesh.tensor={parts} x head_groups={head_groups} must divide the {kv_heads} "
            f"key heads; {cuts.divisors(kv_heads)} would."
        )
