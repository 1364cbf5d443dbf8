"""What every Pallas Mosaic TPU kernel here needs, whatever it computes."""
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128                      # of a vector register; blocks are multiples of this
_VMEM = 96 * 2**20               # bytes that a kernel may take; a chip that has less refuses by itself


def call(kernel, grid_spec, semantics, out_shape, operands, aliases=None):
    """The kernel on these operands: compiled where the call is lowered for a TPU, interpreted elsewhere.

    kernel: a functools.partial of the body, named after its package; semantics: of the grid's axes, in words.
    """
    name = f"{kernel.func.__module__.split('.')[-2]}_{kernel.func.__name__}"

    def run(interpret):
        parameters = pltpu.CompilerParams(dimension_semantics=tuple(semantics.split()), vmem_limit_bytes=_VMEM)
        return pl.pallas_call(kernel, out_shape, grid_spec=grid_spec, input_output_aliases=aliases or {},
                              compiler_params=parameters, interpret=interpret, name=name)
    return jax.lax.platform_dependent(*operands, tpu=run(False), default=run(True))


def like(x, shape, dtype):
    """The type of a result that varies over the mesh axes that x varies over."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)


def matmul(a, b, contract):
    """float32 a b over the axes `contract`, of a and of b. float32 operands in full precision."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((), ())), precision=precision,
                               preferred_element_type=jnp.float32)
