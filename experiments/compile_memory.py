"""What a training step asks of devices that are not here: bytes, as the compiler for them counts.

    pip install -e '.[aot]'
    python -m experiments.compile_memory h100x8 --config configs/longest.py:case=h100x8

Targets: v5p:2x2x1, v5e:4x4, v6e:16x16 and so on, TPU slices that libtpu knows; h100x8, a800x8, h200x8 and so on, GPUs,
8 to a node. Compiles the step of the longest stage, in seconds to minutes, with what every backend can do ("auto" is
plain JAX), and prints one line of JSON, GiB of each device: arguments (parameters, moments, batch) and temporaries,
both also on its host, and what there is of each. The TPU compiler refuses what does not fit on a device, and overstates
temporaries a little; the one for GPUs refuses nothing.
"""
import json
import time

from experiments import config as configs
from experiments import hardware
from experiments.hardware import GIB
from longctx.errors import UserError


def main(argv) -> None:
    if len(argv) < 2 or argv[1].startswith("-"):
        raise UserError("the target is missing; give it first, such as h100x8 or v5p:2x2x1.")
    config, _ = configs.from_command_line([argv[0], *argv[2:]])
    target = hardware.target(argv[1])
    from experiments import checks
    from longctx import meshes, optim, train_step
    stages = checks.check_settings(config)
    longest = max(stages, key=lambda stage: stage.seq_len)
    start = time.monotonic()
    lowered = train_step.lower_step(config, optim.learning_rate(config.optim, stages), longest,
                                    meshes.make(config.mesh, target.devices), target.platform)
    used = hardware.compiled(lowered).memory_analysis()
    memory = {"arguments": used.argument_size_in_bytes, "temporaries": used.temp_size_in_bytes,
              "device_limit": target.chip.memory, "host_arguments": used.host_argument_size_in_bytes,
              "host_temporaries": used.host_temp_size_in_bytes, "host_limit": target.host_share}
    print(json.dumps({"target": argv[1], "mesh": str(config.mesh), "seq_len": longest.seq_len,
                      **{name: round(size / GIB, 3) for name, size in memory.items()},
                      "compile_s": round(time.monotonic() - start, 1)}))


if __name__ == "__main__":
    configs.run(main)
