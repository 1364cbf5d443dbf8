# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: attention over a mesh, then a whole run
#
# First exact attention of one row, sharded over eight devices. Then a language model is trained through three context
# lengths in miniature, and its report shows what the context is worth to it.
#
# The CPU plays eight devices: leave `lc.simulate` out where there are real ones. It takes about a minute and downloads
# nothing. In Colab, clone the project, `%cd` into it and `%pip install -q .` first.

# %%
# %matplotlib inline
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # all is small: compiling takes longest

import jax
from matplotlib import image, pyplot

import longctx as lc

lc.simulate(8)

# %% [markdown]
# ## Ten lines
#
# A query sees the 64 latest keys and the first 4, nothing later than itself. A `ring` passes keys round from device to
# device; `ulysses` trades tokens for heads. The pair `(out, lse)` that either gives is that of one device.

# %%
q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 256, 8, 16))  # one row: 256 tokens, 8 heads of 16
mask = lc.Causal() & (lc.Window(64) | lc.Sinks(4))
whole = jax.device_get(lc.attention(q, k, v, mask=mask))
with jax.set_mesh(lc.mesh(context=8)):  # the row is sharded over eight devices
    for strategy in ("ring", "ulysses"):
        out, lse = lc.attention(q, k, v, mask=mask, strategy=strategy, with_lse=True)
        print(strategy, out.shape, lse.shape, f"{abs(jax.device_get(out) - whole).max():.0e}")

# %% [markdown]
# ## A run
#
# `configs/quickstart.py:smoke` trains two layers on the source code of Python's own standard library, byte by byte, for
# 20 steps: at 256 tokens, then 512, then 1024, with RoPE stretched by YaRN. Without `:smoke` it takes three minutes and
# learns to find a hidden number.

# %%
root = next(path for path in (pathlib.Path(lc.__file__).parents[1], pathlib.Path.cwd()) if (path / "configs").exists())
workdir = pathlib.Path(tempfile.mkdtemp()) / "quickstart"
command = ["-m", "experiments.train", "--config", "configs/quickstart.py:smoke", "--workdir", workdir]
done = subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True)
print(done.stdout[-1500:], done.stderr[-1500:] if done.returncode else "")

# %%
figures = sorted((workdir / "figures").glob("*.png"))
figure, axes = pyplot.subplots(2, 3, figsize=(13, 6.4), layout="constrained")
for ax, path in zip(axes.flat, figures, strict=False):
    ax.imshow(image.imread(path))
for ax in axes.flat:
    ax.axis("off")

# %% [markdown]
# The whole report is `report.html` in the workdir. Next: `docs/tour.md` follows one batch from a file to a gradient.
