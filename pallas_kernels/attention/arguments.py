"""Checks of the arrays of one call of attention: made once at the public edge, not again for pieces of the call."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.arguments import AnyArray, known, require_floats, require_integers, require_range, said
from pallas_kernels.attention.bias import Bias
from pallas_kernels.masks import MOST, TokenInfo


def as_jax(x: AnyArray) -> jax.Array:
    """A numpy array as a jax array, in a dtype that jax has; anything else as it is."""
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def check_arrays(q: AnyArray, k: AnyArray, v: AnyArray, q_name: str = "q", k_name: str = "k") -> None:
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


def checked_info(info: TokenInfo, x: AnyArray, name: str) -> TokenInfo:
    """Positions and segments as int32 [B, T], as many as of the queries or keys x [B, T, ...]; None stays None.

    Segments count from 1, 0 is padding; positions of all that is no padding are from 0 on. Raises ValueError.
    """
    if not isinstance(info, TokenInfo):
        raise ValueError(
            f"{name}_info is of type {type(info).__name__}, and must be masks.TokenInfo(positions, segments)."
        )
    for field, numbers in info._asdict().items():
        if numbers is not None:
            require_integers(field, numbers, "BT")
            if numbers.shape != x.shape[:2]:
                raise ValueError(
                    f"{said(name, x)} and {said(field, numbers)}: {field} must be of the shape [B, T], "
                    f"{list(x.shape[:2])}."
                )
    ids = None if info.segments is None else known(info.segments)
    if ids is not None:
        require_range("segments", info.segments, 0, MOST)
    if info.positions is not None and (info.segments is None or ids is not None):
        require_range("positions", info.positions, 0, MOST, where=True if ids is None else ids > 0)
    return TokenInfo(*(x if x is None else jnp.asarray(x, jnp.int32) for x in info))


def check_bias_params(bias: Bias | None, params: AnyArray | None, heads: int) -> None:
    """Raises ValueError unless there are params [N, D] where there is a bias, and only there."""
    if (bias is None) != (params is None):
        raise ValueError(
            f"bias={bias} and {'no bias_params' if params is None else said('bias_params', params)}: a bias reads "
            "bias_params [N, D], and nothing else does."
        )
    if bias is None or params is None:
        return
    require_floats("bias_params", params, "ND")
    if params.shape != (heads, bias.width):
        raise ValueError(
            f"{said('bias_params', params)} must be of the shape [N, D], {[heads, bias.width]}, for {bias}."
        )
