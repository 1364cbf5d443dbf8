"""The Triton kernels on a CPU: interpreted against the float64 reference, and compiled for GPUs that are not here."""
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import masks
from pallas_kernels.attention import api, jax_triton
from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.spec import AttentionSpec, rows
from pallas_kernels.masks import And, Causal, ChunksBefore, Full, Or, Segments, Tokens, Window
from tests.helpers import assert_close, one_document, packed, problem, slow, truth
from tests.pallas_kernels.test_attention import MASKS, piece_by_piece, run
from tests.triton_interpreter import NEEDS_TRITON, interpreted  # noqa: F401


@NEEDS_TRITON
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name, dtype", [
    *((name, "float32") for name in MASKS), ("packed", "bfloat16"), ("sinks", "float16"),
    *slow(*((name, "bfloat16") for name in MASKS))])
def test_masks(name, dtype):
    tokens = packed(3, 1, 50, mean=12) if "packed" in name else one_document(1, 50)
    p, spec = problem(B=1, T=50, dtype=dtype, tokens=(tokens, tokens)), AttentionSpec(MASKS[name], block=16)
    assert_close(run(p, spec, "jax_triton"), truth(p, spec), dtype, 50, name)
