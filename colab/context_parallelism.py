# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Context parallelism: who holds which token, who waits for whom, what is sent
#
# What a row leaves in memory grows with its length, and what attention computes with the square of it. Context
# parallelism cuts the row over devices. All layers but attention look at each token alone and notice nothing; in
# attention queries have to meet keys of other devices. What sits where and how they meet is a choice that changes no
# result. It decides who has most to do, who waits, and how much is sent.
#
# Runs on a CPU, a GPU or a TPU; where there are fewer than eight devices, the CPU plays eight. It takes half a minute
# and downloads nothing. In Colab, clone the project, `%cd` into it and `%pip install -q .` first.

# %%
# %matplotlib inline
import os

os.environ.setdefault("NPROC", "32")  # threads for simulated devices
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # all is small: compiling takes longest

import jax
import numpy as np

from experiments.bench import balance as bench_balance
from experiments.hardware import targets
from experiments.meter import measure, show
from experiments.meter.lengths import row
from experiments.pictures import placement
from experiments.planner import attention_step
from experiments.settings import console
from longctx import config, layouts, meshes
from longctx.context_parallel import api

# %%
jax.config.update("jax_num_cpu_devices", 8)
devices = (jax.devices() if len(jax.devices()) >= 8 else jax.devices("cpu"))[:8]
print("jax", jax.__version__, "on", len(devices), "x", devices[0].device_kind)

# %% [markdown]
# ## One long document
#
# A **layout** says which device holds which token; each holds equally many. A **ring** leaves queries where they are
# and passes keys and values on, from device to device. Above: the pairs of tokens that each device computes, in its
# colour, paler from hop to hop. Below: when, the mean device's work being 1. At every hop all wait for the
# device that has most to do in it.
#
# - **I** is the work of the busiest device by the mean, what is paid where nobody waits on the way;
# - **J** is what a lock-step ring pays: the sum over its hops of the work of the device that is busiest in that hop.
#
# Under a causal mask late tokens see more: cut in one piece each, the last device has nearly twice the mean. Zigzag
# gives each an early and a late piece, striped deals out small ones.

# %%
placement.rings(["contiguous", "zigzag", "striped(16)"], [1024], 4, 16)

# %% [markdown]
# ## Packed documents
#
# Rows are mostly packed with documents that do not see one another. Then work is not where the row is late, but where
# documents are long. `per_document` makes a zigzag of each; `balanced` deals chunks out so that all have the same work
# and as few documents as possible are cut.

# %%
lengths = [512, 96, 160, 64, 128, 64]
placement.holders(["contiguous", "zigzag", "striped(16)", "per_document(8)", "balanced(16)"], lengths, 4)

# %%
placement.rings(["zigzag", "striped(16)", "per_document(8)", "balanced(16)"], lengths, 4, 16)

# %% [markdown]
# Zigzag is uneven now (I), and more so hop by hop (J). Here `per_document` is even at every hop, but it tears each
# short document over all devices. `balanced` is even as a whole, not hop by hop: it is made for **dispatch**, which
# sends keys to where some query sees them and nowhere else, so that nobody waits on the way. At scale, with lengths as
# of web pages, 8192 tokens a device, blocks of 256:

# %%
print(bench_balance.comparison_table([r for shards in (8, 32) for r in bench_balance.compare("web", shards, 8192)]))
print(bench_balance.LEGEND)

# %% [markdown]
# ## All of them compute the same
#
# Out and the gradients of q, k and v, over eight devices (two groups of four, for the strategies of two levels) against
# one, on the packed row. Masks read positions and documents, so a layout needs no mask of its own.

# %%
packed = row(lengths)
q, k, v, dout = np.random.default_rng(0).standard_normal((4, 1, sum(lengths), 8, 16), np.float32)


def attention(strategy: str, layout: str, **sizes: int) -> list[np.ndarray]:
    """Out, dq, dk, dv, in the order of the row."""
    mesh = meshes.make(config.MeshConfig(**sizes), devices)
    order = layouts.permutation(layout, packed["segments"], mesh.size)
    laid = {name: layouts.permute(x, order) for name, x in packed.items()}
    attend = lambda *arrays: api.attention(*arrays, **laid, strategy=strategy, layout=layout)

    @jax.jit
    def with_gradients(dout, *arrays):
        out, pull = jax.vjp(lambda *x: jax.sharding.reshard(attend(*x), meshes.REPLICATED), *arrays)
        return out, *pull(dout)

    with jax.set_mesh(mesh):
        return [
            layouts.permute(np.asarray(x), layouts.inverse(order))
            for x in with_gradients(*(layouts.permute(x, order) for x in (dout, q, k, v)))
        ]


# %%
alone, errors = attention("local", "contiguous"), {}
for strategy in ("ring", "double_ring", "all_gather", "ulysses", "usp", "dispatch"):
    across = attention(strategy, "balanced(16)", context_outer=2, context=4)
    errors[strategy] = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(across, alone, strict=True)]
print("largest difference / largest value, float32")
print(
    console.table(
        ("strategy", "out", "dq", "dk", "dv"),
        [(name, *(f"{error:.0e}" for error in found)) for name, found in errors.items()],
    )
)
assert np.max(list(errors.values())) < 1e-5

# %% [markdown]
# ## What is sent
#
# The meter compiles a training step and counts what leaves each device, by part, phase and collective, beside what a
# closed form says: here a small model with a ring over eight simulated devices. `python -m experiments.comm` does the
# same for any config, on TPUs and GPUs that you do not have too (`--target v5e:2x4`, `h100x8`).

# %%
small = config.Config(
    model=config.ModelConfig(layers=2, d_model=64, mlp_dim=64, heads=16, kv_heads=8, head_dim=16, dtype="float32"),
    mesh=config.MeshConfig(context=8),
    batch_tokens=4096,
    stages=(config.StageConfig(seq_len=4096, steps=1),),
)
meter = measure.measure(small, targets.Target("cpu:8", None, jax.devices("cpu")[:8], "cpu"), lengths="web")
show.show(meter)
assert all(one.ratio == 1 for one in meter.rows if one.part == "attention")

# %% [markdown]
# The closed forms at a size that matters: attention of a layer of Llama 3 8B, a row of 1M tokens, bfloat16, forward and
# backward. Keys and values pass every device of a ring, so more devices do not lessen what each sends. Ulysses deals
# heads out in place of tokens, and each device's share of them shrinks; but there are only so many heads. USP is
# Ulysses in nodes of eight with a ring around them. Dispatch sends what the documents of a row ask for.

# %%
placement.bytes_sent(
    ["ring", "all_gather", "ulysses", "usp"], ["web", "prolong"], [8, 16, 32, 64, 128], 2**20, "llama3_8b"
)

# %% [markdown]
# ## What would I choose?
#
# A ring sends while it computes. A hop's work grows with the square of a device's tokens, what it sends only with their
# number: it is hidden as soon as there are enough. For eight key heads and 32 query heads, *predicted* from the rates
# in `experiments/hardware/targets.py`:

# %%
layer = attention_step.Layer(heads=32, kv_heads=8, head_dim=128, block=256)
print(
    console.table(
        ("tokens a device, for a ring to be hidden", "near: forward", "backward", "between nodes: forward", "backward"),
        [
            (
                name,
                *(
                    f"{tokens:,.0f}"
                    for shards in (2, 4096)
                    for tokens in attention_step.hidden_from(layer, chip, shards)
                ),
            )
            for name, chip in targets.CHIPS.items()
            if name in ("h100", "v5e", "v5p", "v6e")
        ],
    )
)

# %% [markdown]
# - **One document a row**: `zigzag` and a `ring`. Where devices hold fewer tokens than that: `ulysses`, as far as there
#   are heads for it; beyond them, or beyond a node, `usp`.
# - **Packed documents, few devices**: `per_document(256)` and a `ring`, nearly even at every hop.
# - **Packed documents, many devices**: `dispatch`. Documents have fewer blocks than there are devices: no way of
#   cutting each over all of them is even, and most of what a ring brings is seen by nobody. `balanced(256)` makes the
#   work even; where links are the limit `zigzag` may do better, which leaves documents on fewer devices and sends
#   least.
#
# The standard library's source code, packed, 8192 tokens a device, *predicted* for H100 in nodes of eight (nothing has
# been run there). "By need" is what `dispatch` does:

# %%
bench_balance.picture([record for shards in (8, 32, 128) for record in bench_balance.library(shards, 8192)])

# %% [markdown]
# In a config: `config.attention.strategy = "dispatch"`, `config.attention.layout = "balanced(256)"`,
# `config.mesh.context = 8`; or `"auto"` for both, and the model of costs chooses for these devices and documents, and
# says why. Then ask the meter, and `python -m experiments.plan` what a step may take.
