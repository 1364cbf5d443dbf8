"""Run by test_gpu_schedule.py in its own process: compiles a softmax for the chip that is named."""

import sys

import jax
import jax.numpy as jnp

from experiments.bench.harness import kernel_worker

if __name__ == "__main__":
    kernel_worker.compiled(sys.argv[1], jax.nn.softmax, jax.ShapeDtypeStruct((512, 512), jnp.float32))
