"""What a call of attention must be given. Checked once, where someone calls: what cuts a call need not ask again."""

import jax.numpy as jnp
import numpy as np

from pallas_kernels.arguments import known, require_floats, require_integers, require_range, said
from pallas_kernels.attention.bias import Bias
from pallas_kernels.masks import MOST, Tokens


def as_jax(x):
    """An array of numpy as one of jax, in a dtype that it has; anything else as it is."""
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def check_arrays(q, k, v, q_name: str = "q", k_name: str = "k") -> None:
    """Raises ValueError unless queries [B, T, N, H] go with keys and values [B, S, K, H], K dividing N."""
    arrays = (q_name, q, "BTNH"), (k_name, k, "BSKH"), ("v", v, "BSKH")
    for name, x, letters in arrays:
        require_floats(name, x, letters)
    of_q, of_k, of_v = (said(name, x) for name, x, _ in arrays)
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"{of_q}, {of_k} and {of_v} must be of one dtype; x.astype() makes them so.")
    if k.shape != v.shape:
        raise ValueError(f"{of_k} and {of_v}: keys and values must be of one shape, [B, S, K, H].")
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"{of_q} and {of_k}: there must be as many rows B of queries as of keys.")
    if q.shape[2] % k.shape[2] or q.shape[3] != k.shape[3]:
        raise ValueError(f"{of_q} and {of_k}: key heads must divide query heads, head dims must be equal.")


def checked_tokens(tokens: Tokens, x, name: str) -> Tokens:
    """Positions and segments as int32 [B, T], as many as of the queries or keys x [B, T, ...]; None stays None.

    Segments count from 1, 0 is padding; positions of all that is no padding are from 0 on. Raises ValueError.
    """
    if not isinstance(tokens, Tokens):
        raise ValueError(
            f"tokens of {name} are of type {type(tokens).__name__}, and must be masks.Tokens(positions, segments)."
        )
    for field, numbers in tokens._asdict().items():
        if numbers is not None:
            require_integers(field, numbers, "BT")
            if numbers.shape != x.shape[:2]:
                raise ValueError(
                    f"{said(name, x)} and {said(field, numbers)}: {field} must be of the shape [B, T], "
                    f"{list(x.shape[:2])}."
                )
    ids = None if tokens.segments is None else known(tokens.segments)
    if ids is not None:
        require_range("segments", tokens.segments, 0, MOST)
    if tokens.positions is not None and (tokens.segments is None or ids is not None):
        require_range("positions", tokens.positions, 0, MOST, where=True if ids is None else ids > 0)
    return Tokens(*(x if x is None else jnp.asarray(x, jnp.int32) for x in tokens))


def check_table(bias: Bias | None, table, heads: int) -> None:
    """Raises ValueError unless there is a table [N, D] where there is a bias, and only there."""
    if (bias is None) != (table is None):
        raise ValueError(
            f"bias={bias} and {'no table' if table is None else said('table', table)}: a bias reads a "
            "table [N, D], and nothing else does."
        )
    if table is None:
        return
    require_floats("table", table, "ND")
    if table.shape != (heads, bias.width):
        raise ValueError(f"{said('table', table)} must be of the shape [N, D], {[heads, bias.width]}, for {bias}.")
