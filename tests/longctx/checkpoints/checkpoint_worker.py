"""Run by test_checkpoint.py in its own process, because it is killed there, or limited in what it may write.

checkpoint_worker.py train DIR STEPS EVERY     a small training loop; resumes by itself, prints each step
checkpoint_worker.py limit DIR                 one save within a file size limit, one beyond it, one more within it
"""

import hashlib
import os
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from longctx.checkpoints.checkpointer import Checkpointer, abstract
from longctx.errors import UserError


def initial():
    w = jax.random.normal(jax.random.key(0), (256, 512))
    return {"params": {"w": w}, "opt": {"mu": jnp.zeros_like(w), "nu": jnp.zeros_like(w)}, "step": jnp.int32(0)}


def update(state, drawn):
    """Adam on a made-up gradient: every bit of the state matters for every later step."""
    w, mu, nu = state["params"]["w"], state["opt"]["mu"], state["opt"]["nu"]
    grad = jnp.sin(w) + 0.1 * jax.random.normal(jax.random.fold_in(jax.random.key(1), drawn), w.shape)
    mu, nu = 0.9 * mu + 0.1 * grad, 0.99 * nu + 0.01 * grad * grad
    w = w - 1e-2 * mu / (jnp.sqrt(nu) + 1e-8)
    return {"params": {"w": w}, "opt": {"mu": mu, "nu": nu}, "step": state["step"] + 1}


def train(directory, steps, every):
    step_fn = jax.jit(update, donate_argnums=0)  # donated: a save must have copied what it needs
    with Checkpointer(directory, keep=2) as checkpoints:
        state = initial()
        found = checkpoints.restore_latest(abstract(state))
        data = found.data if found else {"next": 0}
        if found:
            state = found.state
        start = int(state["step"])
        assert start == data["next"] == (found.step if found else 0)
        print("start", start, *(found.notes if found else ()), sep="\t", flush=True)
        for step in range(start + 1, steps + 1):
            state, data = step_fn(state, data["next"]), {"next": step}
            checkpoints.poll()
            time.sleep(0.004)
            print("step", step, sep="\t", flush=True)
            if step % every == 0:
                checkpoints.save(step, state, data, {"seed": 0})
    digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)))
    print("final", digest.hexdigest(), sep="\t", flush=True)


def limit(directory):
    state = initial()
    with Checkpointer(directory) as checkpoints:
        checkpoints.save(1, state, {}, {})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        checkpoints.save(2, state, {}, {})
        try:
            for _ in range(2000):
                checkpoints.poll()
                time.sleep(0.01)
        except UserError as error:
            print(error)
        print(*sorted(name for name in os.listdir(directory)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        checkpoints.save(3, state, {}, {})
    with Checkpointer(directory) as checkpoints:
        print(checkpoints.restore_latest(abstract(state)).step)


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        limit(sys.argv[2])
