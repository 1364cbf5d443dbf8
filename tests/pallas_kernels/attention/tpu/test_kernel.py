"""The TPU kernels, interpreted, as every kernel; what only they have to show is in the other files here."""

import pytest

from pallas_kernels.testing import SHAPES, KernelCases, Sizes
from tests.helpers import later, mask_cases


class TestTpu(KernelCases):
    kernel = "tpu"
    sizes = Sizes(T=386)
    block = 128  # of the smallest blocks four, the last one nearly empty

    @pytest.mark.parametrize("mask, dtype", mask_cases(("sinks", "bfloat16"), ("packed_prefix_window", "bfloat16")))
    def test_masks(self, mask, dtype):
        super().test_masks(mask, dtype)

    @pytest.mark.parametrize("shape", later(SHAPES, "mha", "gqa", "few_queries"))
    def test_shapes(self, shape):
        super().test_shapes(shape)

    @pytest.mark.parametrize("dtype", later(KernelCases.dtypes, "float32"))
    def test_cut_keys(self, cuts, dtype):
        super().test_cut_keys(cuts, dtype)
