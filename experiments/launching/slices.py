"""TPU slices by the names that people use, such as v5e-64: their hosts, and what clouds call them."""

import dataclasses
import re

from longctx.errors import UserError, unknown_name


@dataclasses.dataclass(frozen=True)
class Generation:
    """A TPU generation as Google Cloud names it.

    Attributes:
      cloud: the prefix of accelerator types.
      runtime: the version of a TPU machine's software.
      label: of Kubernetes' nodes, cloud.google.com/gke-tpu-accelerator.
      cores: TensorCores of a chip that the number in a type counts; 1 where it counts chips.
      topologies: chips of a slice -> its shape.
      whole: the most chips that one host has by itself; hosts of bigger slices have four.
    """

    cloud: str
    runtime: str
    label: str
    cores: int
    topologies: dict[int, str]
    whole: int


_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
# cloud.google.com/tpu/docs/runtimes and cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
GENERATIONS = {
    "v4": Generation("v4", "tpu-ubuntu2204-base", "tpu-v4-podslice", 2, _CUBES, 4),
    "v5e": Generation("v5litepod", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 1, _FLAT, 8),
    "v5p": Generation("v5p", "v2-alpha-tpuv5", "tpu-v5p-slice", 2, _CUBES, 4),
    "v6e": Generation("v6e", "v2-alpha-tpuv6e", "tpu-v6e-slice", 1, _FLAT, 8),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice: its generation, its number of chips (jax has a device for each) and the name it was asked for by."""

    name: str
    generation: Generation
    chips: int

    @property
    def accelerator_type(self) -> str:
        """The name that gcloud, XPK and SkyPilot know it by."""
        return f"{self.generation.cloud}-{self.chips * self.generation.cores}"

    @property
    def topology(self) -> str:
        """The shape, as Kubernetes' nodes are labelled."""
        return self.generation.topologies[self.chips]

    @property
    def per_host(self) -> int:
        """The chips of each of its hosts."""
        return self.chips if self.chips <= self.generation.whole else 4

    @property
    def hosts(self) -> int:
        """The number of its hosts."""
        return self.chips // self.per_host


def parse(name: str) -> Slice:
    """The Slice that a name such as "v5e-64" or "v5litepod-64" stands for. Raises UserError for one that is not."""
    match = re.fullmatch(r"([a-z]\w*)-(\d+)", name)
    clouds = {generation.cloud: key for key, generation in GENERATIONS.items()}
    kind = clouds.get(match[1], match[1]) if match else name
    if not match or kind not in GENERATIONS:
        raise unknown_name("--type", name, [f"{key}-{64 * one.cores}" for key, one in GENERATIONS.items()])
    generation, number = GENERATIONS[kind], int(match[2])
    if number % generation.cores or number // generation.cores not in generation.topologies:
        sizes = ", ".join(str(chips * generation.cores) for chips in generation.topologies)
        raise UserError(f"--type={name} is no slice of {kind}: they have the numbers {sizes}.")
    return Slice(name, generation, number // generation.cores)
