"""Calls of Pallas Mosaic GPU kernels and operations inside them, whatever they compute; where versions of jax differ.

A kernel is written for the hardware: warpgroups that take roles, copies by the TMA unit, matmuls by wgmma. On a CPU,
where jax has an interpreter for them, the same kernels run interpreted: slow, for tests, with races detected.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import gpu_chips, select

INTERPRETER = hasattr(plgpu, "InterpretGPUParams")  # since jax 0.11.2
TILE = plgpu.Layout.WGMMA  # how a warpgroup holds the tiles that matmuls give and take
BY_ROW, BY_COLUMN = TILE.reduce(1), TILE.reduce(0)  # one number for each row of such a tile; for each column
WARPGROUP = "warpgroup"  # the axis whose index says which role a thread has


def why_not(x, platform: str) -> str | None:
    """The reason why no kernel can be called with x on this platform, or None."""
    if platform == "cpu":
        if not INTERPRETER:
            return f"jax {jax.__version__} cannot interpret it; 0.11.2 and later can"
        return "jax cannot interpret it inside a shard_map" if jax.typeof(x).manual_axis_type.varying else None
    if platform != "gpu":
        return "runs on GPU, and interpreted on CPU for tests"
    if (capability := gpu_chips.capability()) != (9, 0):
        return f"is written for compute capability 9.0 (H100, H200), not {_dotted(capability)}"
    return None


def _dotted(capability):
    return ".".join(map(str, capability)) if capability else "an unknown one"


def interpreted() -> bool:
    """Whether what is traced is for the interpreter."""
    return select.traced_platform() == "cpu"


def call(kernel, out_type, scratch, grid: dict[str, int], warpgroups: int, operands):
    """The kernel on these operands, for each point of the grid (its first axis varies fastest) and warpgroup.

    kernel: a functools.partial of the body, named after its package; called with references to operands, results and
    scratch.
    """
    name = f"{kernel.func.__module__.split('.')[1]}_{kernel.func.__name__}"
    how = {"interpret": plgpu.InterpretGPUParams(detect_races=True)} if interpreted() else {}
    results = plgpu.kernel(
        kernel,
        out_type=out_type,
        scratch_types=scratch,
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        num_threads=warpgroups,
        thread_name=WARPGROUP,
        kernel_name=name,
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **how,
    )(*operands)
    # jax forgets over which mesh axes a kernel's results vary
    axes = tuple(jax.typeof(jax.tree.leaves(operands)[0]).manual_axis_type.varying)
    return jax.lax.pcast(results, axes, to="varying") if axes else results


def tiles(*shape, dtype):
    """Shared memory for tiles [..., rows, columns] that copies fill and matmuls read: in the layout that both want."""
    columns = 128 // jnp.dtype(dtype).itemsize
    return plgpu.SMEM(shape, dtype, transforms=(plgpu.TilingTransform((8, columns)), plgpu.SwizzleTransform(128)))


def load(ref, layout):
    """The array that ref refers to, held in this layout."""
    return plgpu.load(ref, **_WHOLE, layout=layout)


_WHOLE = {} if INTERPRETER else {"idx": ()}  # older versions take the index apart from the reference


def store(value, target, through):
    """Puts a tile into global memory; by way of `through`, tiles of the same shape, if they have its dtype."""
    if through.dtype != target.dtype:  # threads write whole sectors of 32 bytes only in float32
        target[...] = value.astype(target.dtype)
        return
    through[...] = value.astype(target.dtype)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(through, target)
    plgpu.wait_smem_to_gmem(0)


def full(shape, value, layout):
    """A float32 array of one value, held in this layout."""
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def by_row(x, shape):
    """x [rows] as [rows, columns]."""
    return jax.lax.broadcast_in_dim(x, shape, (0,))


def by_column(x, shape):
    """x [columns] as [rows, columns]."""
    return jax.lax.broadcast_in_dim(x, shape, (1,))


def product(a, b, start=None):
    """The product a b, added to `start` if there is one."""

    def matmul(total):
        total.add(a, b)
        return total.get()

    return accumulate(matmul, (a.shape[0], b.shape[1]) if start is None else start)


def accumulate(body, *starts):
    """body(*sums), each a Sum in registers that starts as an array, or as zeros of a shape."""
    if interpreted():
        return body(*(_PlainSum(jnp.zeros(x, jnp.float32) if isinstance(x, tuple) else x) for x in starts))

    def run(*refs):
        for ref, start in zip(refs, starts, strict=True):
            if not isinstance(start, tuple):
                ref[...] = start
        return body(*map(Sum, refs))

    return pl.run_scoped(run, *(plgpu.ACC(x if isinstance(x, tuple) else x.shape, jnp.float32) for x in starts))


@dataclasses.dataclass
class Sum:
    """A float32 sum of matmuls, computed by wgmma while the program goes on."""

    ref: jax.Ref

    def add(self, a, b):
        """Starts adding a b. a and b are references to tiles, or a is in registers; b may be transposed."""
        plgpu.wgmma(self.ref, a, b)

    def get(self, pending=0):
        """The sum, once all matmuls that were started are over but for the last `pending`."""
        return jax.lax.optimization_barrier(plgpu.wgmma_accumulator_load(self.ref, wait_n=pending))


@dataclasses.dataclass
class _PlainSum:
    """Sum for the interpreter, which knows no accumulators that start as something and no matmul of registers."""

    value: jax.Array

    def add(self, a, b):
        a, b = (x if isinstance(x, jax.Array) else x[...] for x in (a, b))
        plgpu.commit_smem()  # wgmma's reads are ordered with copies without this
        self.value += jnp.dot(a.astype(jnp.float32), b.astype(jnp.float32), precision="highest")

    def get(self, pending=0):
        return self.value
