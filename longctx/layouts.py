"""Which token sits on which context shard: a permutation of the sequence, applied to tokens, targets, positions alike.

Masks and RoPE read positions, never indices, so a layout changes no result: only who computes what. Under a causal mask
a contiguous cut leaves the last shard with 2 - 1/C times the mean work; zigzag gives every shard one early and one late
piece, striped gives it every C-th token: both even.
"""
import numpy as np

from longctx.errors import UserError, unknown_name


def contiguous(length: int, shards: int) -> np.ndarray:
    """Shard c holds tokens [c*n, (c+1)*n), n = length / shards."""
    return np.arange(length)


def zigzag(length: int, shards: int) -> np.ndarray:
    """The sequence in 2C pieces; shard c holds pieces c and 2C-1-c."""
    pieces = np.arange(length).reshape(2 * shards, -1)
    order = [piece for c in range(shards) for piece in (c, 2 * shards - 1 - c)]
    return pieces[order].reshape(-1)


def striped(length: int, shards: int) -> np.ndarray:
    """Shard c holds tokens c, c + C, c + 2C, ... (Striped Attention)."""
    return np.arange(length).reshape(-1, shards).T.reshape(-1)


LAYOUTS = {"contiguous": contiguous, "zigzag": zigzag, "striped": striped}
PIECES = {"contiguous": 1, "zigzag": 2, "striped": 1}        # pieces per shard: shards * pieces must divide the length


def permutation(name: str, length: int, shards: int) -> np.ndarray:
    """int array [length]: slot i of the laid-out sequence holds token permutation[i]. `inverse` undoes it.

    Raises:
      UserError: for an unknown layout, or a length that does not divide; names the nearest lengths that do.
    """
    check(name, length, shards)
    return LAYOUTS[name](length, shards) if shards > 1 else np.arange(length)


def check(name: str, length: int, shards: int) -> None:
    if name not in LAYOUTS:
        raise unknown_name("attention.layout", name, LAYOUTS)
    unit = shards * PIECES[name]
    if shards > 1 and length % unit:
        below, above = length // unit * unit, -(-length // unit) * unit
        near = f"{below} or {above}" if below else f"{above}"
        raise UserError(f"seq_len={length} must divide by {unit} for attention.layout={name!r} "
                        f"over mesh.context={shards}. Nearest: {near}.")


def inverse(order: np.ndarray) -> np.ndarray:
    """The permutation with inverse(order)[order[i]] = i: laid_out[inverse] is the original sequence."""
    return np.argsort(order)


def apply(batch: dict, order: np.ndarray) -> dict:
    """Every [B, T] array of the batch, permuted along T."""
    return {name: np.ascontiguousarray(x[:, order]) for name, x in batch.items()}
