"""Values of quantized tensors: the most usual kinds here, all others by the library `gguf`, three times as slow.

A block of 32 values has a scale d in float16 and a whole number q for each value; two q of four bits share a byte, that
of value i in the lower half, that of value i + 16 in the upper one. Free of jax.
"""

import numpy as np

from longctx.errors import UserError


def q4_0(blocks: np.ndarray) -> np.ndarray:
    """d (q - 8). blocks: uint8 [n, 18]; float32 [n, 32]."""
    values = _nibbles(blocks[:, 2:])
    values -= 8
    values *= _half(blocks, 0)
    return values


def q4_1(blocks: np.ndarray) -> np.ndarray:
    """d q + m. blocks: uint8 [n, 20], m in float16 behind d; float32 [n, 32]."""
    values = _nibbles(blocks[:, 4:])
    values *= _half(blocks, 0)
    values += _half(blocks, 2)
    return values


def q8_0(blocks: np.ndarray) -> np.ndarray:
    """d q. blocks: uint8 [n, 34], q in int8; float32 [n, 32]."""
    values = blocks[:, 2:].view(np.int8).astype(np.float32)
    values *= _half(blocks, 0)
    return values


# kinds of tensors: (bytes of a block, blocks -> values)
KINDS = {"Q4_0": (18, q4_0), "Q4_1": (20, q4_1), "Q8_0": (34, q8_0)}


def dequantized(kind: str, content: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The values of a tensor, float32; content: its bytes, uint8 [n]."""
    if kind in KINDS:
        size, values = KINDS[kind]
        return values(content.reshape(-1, size)).reshape(shape)
    quants, types = _library(kind)
    return quants.dequantize(content.reshape(*shape[:-1], -1), types[kind]).reshape(shape)


def known() -> list[str]:
    """The kinds that can be read."""
    try:
        from gguf import quants
    except ImportError:
        return sorted(KINDS)
    return sorted({*KINDS, *(kind.name for kind in quants._type_traits)})


def _library(kind: str):
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError as error:
        raise UserError(
            f"a tensor of the type {kind} needs gguf, which is not installed: pip install 'longctx[gguf]'."
        ) from error
    return quants, GGMLQuantizationType.__members__


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The float16 at a byte of each block, float32 [n, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    values = np.empty((len(packed), 32), np.float32)
    np.bitwise_and(packed, 15, out=values[:, :16], casting="unsafe")
    np.right_shift(packed, 4, out=values[:, 16:], casting="unsafe")
    return values
