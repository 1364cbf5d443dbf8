"""The TPU kernels, interpreted, as every kernel; what only they have to show is in the other files here."""

from pallas_kernels.testing import KernelCases, Sizes


class TestTpu(KernelCases):
    kernel = "tpu"
    sizes = Sizes(T=386)
    block = 128  # of the smallest blocks four, the last one nearly empty
