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


def call(kernel, grid_spec, semantics, out_shape, operands, aliases=None, whole_region=False):
    """The kernel on these operands: compiled where the call is lowered for a TPU, interpreted elsewhere.

    kernel: a functools.partial of the body; semantics: of the grid's axes, in words.
    whole_region: scheduled by the compiler's linear program, that looks at a region as a whole.
    """
    flags = {"XLA_TPU_FORCE_LP_LLO_SCHEDULER": True} if whole_region else None
    def run(interpret):
        parameters = pltpu.CompilerParams(dimension_semantics=tuple(semantics.split()), vmem_limit_bytes=_VMEM,
                                          flags=flags, disable_bounds_checks=True)
        return pl.pallas_call(kernel, out_shape, grid_spec=grid_spec, input_output_aliases=aliases or {},
                              compiler_params=parameters, interpret=interpret, name=f"attention_{kernel.func.__name__}")
    # XLA would keep small operands in VMEM, where the kernel's own pipeline has to copy them without a DMA
    in_hbm = lambda x: pltpu.with_memory_space_constraint(x, pltpu.HBM)
    return jax.lax.platform_dependent(*operands, tpu=lambda *operands: run(False)(*map(in_hbm, operands)),
                                      default=run(True))


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
    """float32 a b over the axes `contract`, of a and of b. In full precision where both are float32."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == b.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((), ())), precision=precision,
                               preferred_element_type=jnp.float32)


def token_rows(tokens):
    """Tokens [1, n] from positions and segments [2, n]."""
    return Tokens(tokens[0:1], tokens[1:2])


def token_columns(tokens, width=1):
    """Tokens [n, width] of equal columns from positions and segments [2, n]."""
    return Tokens(*(jnp.tile(as_columns(x), (1, pl.cdiv(width, LANES)))[:, :width] for x in token_rows(tokens)))


def as_rows(x, y):
    """Two arrays [128, 128] of equal columns -> a column of each as a row [1, 128], by one transpose."""
    first = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) == 0
    both = jnp.where(first, x, y).T
    return both[:1], both[1:2]


def as_columns(row):
    """[1, n] -> [n, 128] of equal columns."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T
