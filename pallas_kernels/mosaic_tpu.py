"""Calls of Pallas Mosaic TPU kernels, and small operations inside them, whatever they compute."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import tpu_chips

LANES = 128  # of a vector register; blocks are multiples of this
# newer versions of jax have it in the one module, older ones in the other
reciprocal = pltpu.reciprocal if hasattr(pltpu, "reciprocal") else pl.reciprocal


def why_not(x, platform: str) -> str | None:
    """The reason why no kernel can be called with x on this platform, or None."""
    if platform not in ("tpu", "cpu"):
        return "runs on TPU, and interpreted on CPU for tests"
    if platform == "cpu" and tpu_chips.current() is None and jax.typeof(x).manual_axis_type.varying:
        return "jax cannot interpret it inside a shard_map that checks what varies; shard_map's check_vma=False lets it"
    return None


def call(kernel, grid_spec, semantics, out_shape, operands, aliases=None, whole_region=False, vmem=64):
    """The kernel on these operands: compiled where the call is lowered for a TPU, interpreted elsewhere.

    kernel: a functools.partial of the body, named after its package; semantics: of the grid's axes, in words.
    whole_region: the compiler schedules a region as a whole, by its linear program.
    vmem: 2^20 bytes of vector memory that the kernel may take at most; a chip that has less refuses by itself.
    """
    flags = {"XLA_TPU_FORCE_LP_LLO_SCHEDULER": True} if whole_region else None
    name = f"{kernel.func.__module__.split('.')[1]}_{kernel.func.__name__}"

    def run(interpret):
        parameters = pltpu.CompilerParams(
            dimension_semantics=tuple(semantics.split()),
            flags=flags,
            vmem_limit_bytes=vmem * 2**20,
            disable_bounds_checks=True,
        )
        return pl.pallas_call(
            kernel,
            out_shape,
            grid_spec=grid_spec,
            input_output_aliases=aliases or {},
            compiler_params=parameters,
            interpret=interpret,
            name=name,
        )

    # XLA would keep small operands in VMEM, where the kernel's own pipeline has to copy them without a DMA
    in_hbm = lambda x: pltpu.with_memory_space_constraint(x, pltpu.HBM)
    # or jax.checkpoint would compute some constrained operands before the call, and jax cannot lower such a residual
    operands = jax.lax.optimization_barrier(tuple(operands))
    return jax.lax.platform_dependent(
        *operands, tpu=lambda *operands: run(False)(*map(in_hbm, operands)), default=run(True)
    )


def like(x, shape, dtype):
    """The type of a result that varies over the mesh axes over which x does."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)


def matmul(a, b, contract):
    """The float32 product of a and b over the axes `contract`, one of each; in full precision of float32 operands."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == b.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


def as_columns(row):
    """[1, n] -> [n, 128] of equal columns."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T
