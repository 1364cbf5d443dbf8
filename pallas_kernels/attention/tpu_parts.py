"""Pieces that the forward and the backward kernel share: layouts outside, small operations inside, the call itself."""
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import masks
from pallas_kernels.attention import pairs, tiles
from pallas_kernels.attention.tpu_blocks import LANES, native_head_size
from pallas_kernels.masks import Tokens

_VMEM = 64 * 2**20


def call(kernel, grid_spec, semantics, out_shape, operands, aliases=None):
    """The kernel on these operands: compiled where the call is lowered for a TPU, interpreted elsewhere.

    kernel: a functools.partial of the body; semantics: of the grid's axes, in words.
    """
    def run(interpret):
        parameters = pltpu.CompilerParams(dimension_semantics=tuple(semantics.split()), vmem_limit_bytes=_VMEM)
        return pl.pallas_call(kernel, out_shape, grid_spec=grid_spec, input_output_aliases=aliases or {},
                              compiler_params=parameters, interpret=interpret, name=f"attention_{kernel.func.__name__}")
    return jax.lax.platform_dependent(*operands, tpu=run(False), default=run(True))


def heads_first(x, block):
    """BTNH -> BNTH, padded to whole blocks and a native head size; numbers per row BTN -> BN1T."""
    x = tiles.pad(x, 1, block)
    if x.ndim == 3:
        return x.swapaxes(1, 2)[:, :, None]
    return tiles.pad(x, 3, native_head_size(x.shape[3])).swapaxes(1, 2)


def heads_last(x, length, head_size):
    """BNTH -> BTNH without the padding."""
    return x[:, :, :length, :head_size].swapaxes(1, 2)


def stacked(tokens):
    """int32 [B, 2, T]: positions and segments."""
    return jnp.stack(tokens, 1)


def like(x, shape, dtype):
    """The type of a result that varies over the mesh axes that x varies over."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)


def on_kind(kind, step):
    """step(form) in the compiled form that a pair of this kind asks for; nothing for EMPTY."""
    for form in (masks.FULL, pairs.LOWER, masks.PARTIAL):
        pl.when(kind == form)(lambda form=form: step(form))


def matmul(a, b, contract):
    """float32 a b over the axes `contract`, of a and of b. float32 operands in full precision."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((), ())), precision=precision,
                               preferred_element_type=jnp.float32)


def token_rows(tokens):
    """Tokens [1, n] from positions and segments [2, n]."""
    return Tokens(tokens[0:1], tokens[1:2])


def token_columns(tokens, width=1):
    """Tokens [n, width] of equal columns from positions and segments [2, n]."""
    return Tokens(*(jnp.tile(_wide(x).T, (1, pl.cdiv(width, LANES)))[:, :width] for x in token_rows(tokens)))


def as_row(column):
    """[n, 1] -> [1, n]."""
    return jnp.broadcast_to(column, (column.shape[0], LANES)).T[:1]


def _wide(row):
    return jnp.broadcast_to(row, (LANES, row.shape[1]))              # Mosaic transposes whole tiles
