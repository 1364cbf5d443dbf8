"""What a call of `attend` or `attention` must be given. Shapes and dtypes are checked, and values that are known."""

from collections.abc import Mapping

import numpy as np

from longctx import cuts
from longctx.config import DTYPES
from longctx.errors import UserError, as_user_error, unknown_name
from pallas_kernels.arguments import known, require_floats, require_whole, said
from pallas_kernels.attention.arguments import as_jax, check_arrays, check_table, checked_tokens
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import MOST, Tokens


def sequence(q, k, v, positions=None, segments=None):
    """(queries, keys, v, Tokens) as arrays of jax: queries and keys of every part of the pairs, of the same tokens.

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
    return queries, keys, v, as_user_error(checked_tokens, Tokens(positions, segments), queries[0], "q")


def check_runs(segments) -> None:
    """Raises UserError unless each document is one run of tokens, where segments [B, T] are given and known."""
    if segments is None or (ids := known(segments)) is None:
        return
    starts = ids != np.pad(ids, ((0, 0), (1, 0)))[:, :-1]
    for row, (here, start) in enumerate(zip(ids, starts, strict=True)):
        numbers, runs = np.unique(here[start & (here > 0)], return_counts=True)
        if (runs > 1).any():
            raise UserError(
                f"row {row} of {said('segments', segments)} comes back to document "
                f"{numbers[runs > 1][0]}: each must be one run of tokens."
            )


def specs(mask, parts: int, heads: int, table, sinks, **fields) -> tuple[AttentionSpec, ...]:
    """The spec of every part of the pairs. fields: scale, bias and soft_cap. Raises UserError."""
    masks = mask if isinstance(mask, tuple) else (mask,)
    if len(masks) != parts:
        raise UserError(
            f"mask has {len(masks)} parts, and q and k have {parts}: there must be one of each for every part."
        )
    made = tuple(as_user_error(AttentionSpec, part, partial=parts > 1, **fields) for part in masks)
    as_user_error(check_table, fields["bias"], table, heads)
    if sinks is not None:
        as_user_error(require_floats, "sinks", sinks, "N")
        if len(sinks) != heads:
            raise UserError(f"{said('sinks', sinks)} must be of the shape [N], [{heads}].")
    return made


def check_cut(q, k, sizes: Mapping[str, int], head_groups: int, kv_grads_dtype: str) -> None:
    """Raises UserError unless the axes of the mesh, of these sizes, divide queries and keys."""
    if kv_grads_dtype not in DTYPES:
        raise unknown_name("kv_grads_dtype", kv_grads_dtype, DTYPES)
    as_user_error(require_whole, "head_groups", head_groups, 1, MOST)
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
