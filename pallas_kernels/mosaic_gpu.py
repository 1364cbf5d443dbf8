"""What every Pallas Mosaic GPU kernel here needs, whatever it computes, and where versions of jax differ.

A kernel is written for the hardware: warpgroups that take roles, copies by the TMA unit, matmuls by wgmma. On a CPU,
where jax has an interpreter for them, the same kernels run interpreted: slow, for tests, with races detected. It knows
no accumulators that are carried on, and no matmul of registers: `Matmuls` does those the plain way there.
"""
import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import dispatch, gpu_chips

INTERPRETER = hasattr(plgpu, "InterpretGPUParams")          # since jax 0.11.2
TILE = plgpu.Layout.WGMMA                                   # how a warpgroup holds the tiles that matmuls give and take
BY_ROW, BY_COLUMN = TILE.reduce(1), TILE.reduce(0)          # one number for each row of such a tile; for each column
WARPGROUP = "warpgroup"                                     # the axis whose index says which role a thread has


def why_not(platform: str) -> str | None:
    """What stands in the way of every kernel on this platform, or None."""
    if platform == "cpu":
        return None if INTERPRETER else f"jax {jax.__version__} cannot interpret it; 0.11.2 and later can"
    if platform != "gpu":
        return "runs on GPU, and interpreted on CPU for tests"
    if (capability := gpu_chips.capability()) != (9, 0):
        return f"is written for compute capability 9.0 (H100, H200), not {_dotted(capability)}"
    return None


def _dotted(capability):
    return ".".join(map(str, capability)) if capability else "an unknown one"


def call(kernel, out_type, scratch, grid: dict[str, int], warpgroups: int, operands):
    """The kernel on these operands, for each point of the grid (its first axis varies fastest) and warpgroup.

    kernel: a functools.partial of the body, named after its package; called with references to operands, results and
    scratch, and with `matmuls`.
    """
    interpret = dispatch.traced_platform() == "cpu"
    name = f"{kernel.func.__module__.split('.')[-2]}_{kernel.func.__name__}"
    how = dict(interpret=plgpu.InterpretGPUParams(detect_races=True)) if interpret else {}
    parameters = plgpu.CompilerParams(approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane)

    def body(*refs):
        kernel(*refs, matmuls=Matmuls(interpret))
    return plgpu.kernel(body, out_type=out_type, scratch_types=scratch, compiler_params=parameters,
                        grid=tuple(grid.values()), grid_names=tuple(grid), num_threads=warpgroups,
                        thread_name=WARPGROUP, kernel_name=name, **how)(*operands)


def tiles(*shape, dtype):
    """Shared memory for tiles [..., rows, columns] that copies fill and matmuls read: in the layout that both want."""
    columns = 128 // jnp.dtype(dtype).itemsize
    return plgpu.SMEM(shape, dtype, transforms=(plgpu.TilingTransform((8, columns)), plgpu.SwizzleTransform(128)))


def load(ref, layout):
    """What is in ref, held in this layout."""
    return plgpu.load(ref, **_WHOLE, layout=layout)


_WHOLE = {} if INTERPRETER else {"idx": ()}                 # older versions take the index apart from the reference


def like(x, shape, dtype):
    """The type of a result that varies over the mesh axes that x varies over."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)


def tanh(x):
    """By exponentials: the hardware's own is good to 11 bits alone."""
    return 1.0 - 2.0 / (jnp.exp2((2 * math.log2(math.e)) * x) + 1.0)


def full(shape, value, layout):
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def by_row(x, shape):
    """x [rows] as [rows, columns]."""
    return jax.lax.broadcast_in_dim(x, shape, (0,))


def by_column(x, shape):
    """x [columns] as [rows, columns]."""
    return jax.lax.broadcast_in_dim(x, shape, (1,))


@dataclasses.dataclass(frozen=True)
class Matmuls:
    """float32 results of wgmma, in registers. a, b are references to tiles, or a is in registers; b may be transposed.

    interpret: do it the plain way.
    """
    interpret: bool

    def product(self, a, b, during=lambda: None):
        """a b. What `during` does comes after it was started."""
        if self.interpret:
            during()
            return self._plain(a, b)

        def start(sums):
            plgpu.wgmma(sums, a, b)
            during()
            return sums[...]
        return pl.run_scoped(start, plgpu.ACC((a.shape[0], b.shape[1]), jnp.float32))

    def onto(self, sums, a, b):
        """sums + a b."""
        if self.interpret:
            return sums + self._plain(a, b)

        def start(sums_ref):
            sums_ref[...] = sums
            plgpu.wgmma(sums_ref, a, b)
            return sums_ref[...]
        return pl.run_scoped(start, plgpu.ACC(sums.shape, jnp.float32))

    def ahead(self, first, sums, a, b, during, then):
        """(sums + a b, then(x y)) for first = (x, y): x y is started before a b, and `then` does not wait for a b.

        during: what it does comes after both were started.
        """
        if self.interpret:
            during()
            return sums + self._plain(a, b), then(self._plain(*first))

        def start(x_y, sums_ref):
            sums_ref[...] = sums
            plgpu.wgmma(x_y, *first)
            plgpu.wgmma(sums_ref, a, b)
            during()
            result = then(jax.lax.optimization_barrier(plgpu.wgmma_accumulator_load(x_y, wait_n=1)))
            # or the compiler would put results where a, which it takes for spent, is still being read
            return jax.lax.optimization_barrier((sums_ref[...], result))
        x_y = plgpu.ACC((first[0].shape[0], first[1].shape[1]), jnp.float32)
        return pl.run_scoped(start, x_y, plgpu.ACC(sums.shape, jnp.float32))

    def _plain(self, a, b):
        a, b = (x if isinstance(x, jax.Array) else x[...] for x in (a, b))
        plgpu.commit_smem()                                 # wgmma's reads are ordered with copies without this
        return jnp.dot(a.astype(jnp.float32), b.astype(jnp.float32), precision="highest")
