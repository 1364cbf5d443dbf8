# ---
# jupyter:
#   accelerator: TPU
#   colab:
#     gpuType: V5E1
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/longctx/longctx/blob/main/colab/context_parallelism.ipynb)
#
# # Who holds which token, who waits for whom, and what is sent
#
# One notebook for CPU, GPU and TPU: half a minute on a laptop, which plays eight devices. Nothing is downloaded, no token is asked for.

# %%
import os
import sys

if "google.colab" in sys.modules:
    # %pip install -q "git+https://github.com/longctx/longctx"
    pass
os.environ.setdefault("NPROC", "32")            # threads for simulated devices

# %%
import jax

from longctx import meshes

if jax.config.jax_platforms == "cpu" or not os.path.exists("/dev/nvidia0") and not os.path.exists("/dev/accel0"):
    meshes.simulate(8)
print(jax.__version__, jax.devices())

# %% tags=["parameters"]
lengths = [512, 96, 160, 64, 128, 64]           # of the documents of a packed row
shards = 4

# %% [markdown]
# ## Layouts
#
# A layout says which context shard holds which token. Every shard holds equally many; a mask reads positions, so the result is the same.

# %%
from experiments import placement_figures

placement_figures.holders(["contiguous", "zigzag", "striped(16)", "per_document(8)", "balanced(16)"], lengths, shards)

# %% [markdown]
# ## Work, and when it is done
#
# Pairs of blocks, as they lie on the shards. On a ring keys travel past the queries, one shard a hop; colours say at which hop a pair is
# computed. **I** is the work of the busiest shard by the mean. **J** is what a ring pays: at every hop all wait for the one that has most to
# do in it. A placement that is even as a whole may still be uneven hop by hop; `dispatch`, which fetches keys by need, waits once.

# %%
placement_figures.hop_maps(["contiguous", "zigzag", "per_document(8)", "balanced(16)"], lengths, shards, 16)

# %% [markdown]
# ## What is sent
#
# In closed form, MiB that leave a device in one layer: 65,536 tokens over 8 devices, 32 query heads of 128, 8 key heads, bfloat16. `dispatch`
# is a bound: it sends what the documents of a batch need. `python -m experiments.comm` compares these with the compiled step.

# %%
from longctx.context_parallel import cost
from longctx.context_parallel.strategy import Plan
from pallas_kernels.masks import Causal

total = lambda parts: sum(one.load.bytes for one in parts) / 2**20
print(f"{'strategy':20}{'forward':>10}{'backward':>10}")
for name in cost.COSTS:
    layout, outer = "contiguous" if name == "lightseq" else "zigzag", 2 if name in ("double_ring", "usp") else 1
    plan = Plan(name, "auto", (outer, 8 // outer), 32, 8, layout, False, "bfloat16")
    found = cost.cost(cost.Call(plan, Causal(), 1, 65536 // 8, 128, "bfloat16"))
    print(f"{name:20}{total(found.exchange + found.forward):10.0f}{total(found.backward):10.0f}")

# %% [markdown]
# ## All of them compute the same
#
# Eight devices against one, on a packed row under a causal mask.

# %%
import jax.numpy as jnp
import numpy as np

from longctx.context_parallel import api

segments = jnp.asarray(placement_figures.packed(lengths)["segments"])
shape = 1, segments.shape[1], 8, 16
q, k, v = (jax.random.normal(jax.random.key(i), shape) for i in range(3))
alone = api.attention(q, k, v, segments=segments)
if len(jax.devices()) > 1:
    for strategy in ("ring", "all_gather", "ulysses", "dispatch"):
        with jax.set_mesh(meshes.all_context()):
            across = api.attention(q, k, v, segments=segments, strategy=strategy)
        error = float(np.abs(np.asarray(across) - np.asarray(alone)).max())
        print(f"{strategy:12} largest difference {error:.1e}")
        assert error < 1e-5
