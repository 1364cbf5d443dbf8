"""Groups of compiler flags for runs on several devices, named by what they are for; a launch prints those it sets.

libtpu reads flags in LIBTPU_INIT_ARGS, XLA for GPUs in XLA_FLAGS; both end the process at a flag that they do not know,
so the tests read every flag here with the versions that are installed. What they gain has not been measured.
"""

import os

from experiments.settings.console import names

VARIABLES = {"tpu": "LIBTPU_INIT_ARGS", "gpu": "XLA_FLAGS"}
NONE = "none"
# overlap: sends beside compute; collective-permute is the ring's, all-to-all Ulysses', all-gather fsdp's
# slices: between slices or nodes, gradients of one layer are sent while the next is computed
# offload: copies to and from host memory beside compute, for memory.offload and model.remat="offload_layer"
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "overlap": {
        "tpu": (
            "--xla_enable_async_collective_permute=true",
            "--xla_enable_async_all_gather=true",
            "--xla_tpu_enable_async_all_to_all=true",
            "--xla_tpu_enable_async_collective_fusion=true",
            "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
            "--xla_tpu_overlap_compute_collective_tc=true",
        ),
        "gpu": ("--xla_gpu_enable_latency_hiding_scheduler=true",),
    },
    "slices": {
        "tpu": (
            "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
            "--xla_tpu_data_parallel_opt_different_sized_ops=true",
        ),
        "gpu": (
            "--xla_gpu_enable_pipelined_all_gather=true",
            "--xla_gpu_enable_pipelined_all_reduce=true",
            "--xla_gpu_enable_pipelined_reduce_scatter=true",
        ),
    },
    "offload": {
        "tpu": (
            "--xla_tpu_enable_all_experimental_scheduler_features=true",
            "--xla_tpu_enable_scheduler_memory_pressure_tracking=true",
            "--xla_tpu_host_transfer_overlap_limit=24",
            "--xla_tpu_aggressive_opt_barrier_removal=ENABLED",
            "--xla_latency_hiding_scheduler_rerun=2",
        ),
        "gpu": (),
    },
}


def variables(groups: str, platform: str) -> dict[str, str]:
    """{variable: flags} of groups such as "overlap,slices".

    platform: "tpu" or "gpu"; any other has no flags. Raises UserError for an unknown group.
    """
    chosen = names("--flags", groups, (*GROUPS, NONE))
    if platform not in VARIABLES:
        return {}
    text = " ".join(flag for name in chosen if name != NONE for flag in GROUPS[name][platform])
    return {VARIABLES[platform]: text} if text else {}


def added(groups: str, platform: str) -> dict[str, str]:
    """`variables`, each after the flags that it has on this machine already."""
    found = variables(groups, platform)
    return {name: " ".join(filter(None, (os.environ.get(name), text))) for name, text in found.items()}
