"""Calls of Triton kernels from JAX, through jax-triton; all that differs among versions of jax-triton is here."""

import inspect
from importlib.util import find_spec

import jax
import jax.numpy as jnp

from pallas_kernels import gpu_chips


def why_not(x, platform: str) -> str | None:
    """The reason why no Triton kernel can be called with x on this platform, or None."""
    if platform != "gpu":
        return "runs on GPUs alone"
    if x.dtype not in (jnp.bfloat16, jnp.float16):
        return f"takes bfloat16 or float16 alone, not {x.dtype}"
    missing = [name for name in ("triton", "jax_triton") if not find_spec(name)]
    return f"needs {' and '.join(missing)}: pip install 'longctx[gpu]'" if missing else None


def call(kernel, operands, results, grid, warps: int, stages: int, **static):
    """The results, arrays like the ShapeDtypeStructs `results`, of a @triton.jit function of pointers to all arrays.

    Args:
      kernel: its parameters are the operands, then the results, then what is known when it is compiled, `static`.
      grid: programs along each of up to three axes.
      warps: of 32 threads that run a program (of 64 on AMD).
      stages: of the pipeline by which loops load ahead.
    """
    results = run(kernel, operands, results, grid, warps, stages, static)
    # over which mesh axes the results vary is not in their types
    varying = tuple(set().union(*(jax.typeof(x).manual_axis_type.varying for x in operands)))
    return jax.tree.map(lambda x: jax.lax.pcast(x, varying, to="varying"), results) if varying else results


def run(kernel, operands, results, grid, warps, stages, static):
    """The results of `call` by jax-triton, whose types say nothing of mesh axes."""
    import jax_triton
    from triton import knobs

    # Triton writes PTX of the version of the newer ptxas that it brings along, which XLA's may not read; all of CUDA 13
    # read that of the older one
    knobs.nvidia.ptxas_blackwell = knobs.nvidia.ptxas.path
    how = dict(out_shape=results)
    if "out_type" in inspect.signature(jax_triton.triton_call).parameters:  # since 0.4
        how = dict(out_type=results, backend_options={"enable_fp_fusion": True})
    capability = gpu_chips.capability()
    return jax_triton.triton_call(
        *operands,
        kernel=kernel,
        grid=grid,
        name=kernel.__name__,
        num_warps=warps,
        num_stages=stages,
        compute_capability=capability and 10 * capability[0] + capability[1],
        **how,
        **static,
    )
