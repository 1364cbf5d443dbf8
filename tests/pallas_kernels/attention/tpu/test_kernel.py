"""The TPU kernels, interpreted, as every kernel; what only they have to show is in the other files here."""

import pytest

from pallas_kernels.testing import MASKS, KernelCases, Sizes
from tests.helpers import slow

HALVED = ("sinks", "packed_prefix_window")  # in bfloat16 in the quick tier


class TestTpu(KernelCases):
    kernel = "tpu"
    sizes = Sizes(T=386)
    block = 128  # of the smallest blocks four, the last one nearly empty

    @pytest.mark.parametrize(
        "mask, dtype",
        [
            *((name, "float32") for name in MASKS),
            *((name, "bfloat16") for name in HALVED),
            *slow(*((name, "bfloat16") for name in MASKS if name not in HALVED)),
        ],
    )
    def test_masks(self, mask, dtype):
        super().test_masks(mask, dtype)
