"""Triton kernels on a CPU: triton_call.run with triton's own interpreter in jax-triton's place."""

import importlib.util
import threading

import jax
import numpy as np
import pytest

from pallas_kernels import triton_call

NEEDS_TRITON = pytest.mark.skipif(
    not importlib.util.find_spec("jax_triton"), reason="jax-triton, which brings triton, is not installed"
)
_ONE_AT_A_TIME = threading.Lock()
_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "int32": "i32"}


@pytest.fixture
def interpreted(monkeypatch):
    """Calls of Triton kernels are interpreted, and nothing stands in their way."""
    from triton.runtime import interpreter

    monkeypatch.setattr(triton_call, "run", run)
    monkeypatch.setattr(triton_call, "why_not", lambda x, platform: None)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", _dot(interpreter.InterpreterBuilder.create_dot))


def _dot(dot):
    """The interpreter's, which takes the bits of bfloat16 for integers."""
    import triton.language as tl

    wide = lambda builder, x: builder.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x
    return lambda builder, a, b, *rest: dot(builder, wide(builder, a), wide(builder, b), *rest)


class Tensor:
    """What the interpreter asks of a tensor: where it is, and of which type."""

    def __init__(self, array):
        self.array, self.dtype = array, _NAMES[array.dtype.name]

    def data_ptr(self):
        return self.array.ctypes.data

    def untyped_storage(self):
        return self

    def cpu(self):
        return self

    def new_empty(self, size, device):
        return Tensor(self.array)

    def set_(self, storage, offset, size, stride):
        self.array = storage.array

    def storage_offset(self):
        return 0

    def size(self):
        return self.array.shape

    def stride(self):
        return ()

    def copy_(self, other):
        assert other.array is self.array, "the interpreter works in place"


def run(kernel, operands, results, grid, warps, stages, static):
    """As triton_call.run."""

    def on_host(*operands):
        operands, outs = (np.ascontiguousarray(x) for x in operands), tuple(np.empty(x.shape, x.dtype) for x in results)
        with _ONE_AT_A_TIME:  # simulated devices are threads, and the interpreter's state is global
            kernel[grid](*map(Tensor, (*operands, *outs)), **static)
        return outs

    return jax.pure_callback(on_host, results, *operands)
