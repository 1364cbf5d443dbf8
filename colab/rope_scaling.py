# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How RoPE is stretched, and what else one can do about positions
#
# Everything here calls the library; no accelerator is needed. In Colab, clone the project, `%cd` into it and
# `%pip install -q .` first.

# %%
# %matplotlib inline
from experiments.pictures import positions as position_figures
from longctx.config import RopeConfig

TRAINED, TARGET, HEAD_DIM = 4096, 32768, 128
stretched = dict(factor=TARGET / TRAINED, original_length=TRAINED)

# %% [markdown]
# ## Frequencies and wavelengths
#
# RoPE turns pair *i* of a head's dimensions by `position * base**(-2i/d)`. Pairs whose wavelength is below the trained
# length have shown all their angles in training. The slow ones have not: at a longer length they turn further than any
# training has seen.
#
# - **linear** interpolation divides every frequency: nothing new is seen, but neighbours come closer together.
# - **ntk** changes the base: the fastest pair is untouched, the slowest divided by the factor.
# - **yarn** keeps the pairs that turn often, divides those that turn less than once, with a ramp in between, and
#   sharpens the softmax.

# %%
ropes = {
    "none": RopeConfig(),
    "linear": RopeConfig(scaling="linear", **stretched),
    "ntk": RopeConfig(scaling="ntk", **stretched),
    "yarn": RopeConfig(scaling="yarn", **stretched),
    "llama3": RopeConfig(scaling="llama3", **stretched),
}
position_figures.wavelengths(ropes, HEAD_DIM, TRAINED, TARGET)

# %% [markdown]
# The same with a larger base from the start (ABF), as models for long context are trained: fewer pairs are left that
# have not turned once.

# %%
bases = {f"base {base:,}": RopeConfig(theta=base) for base in (10_000, 500_000, 10_000_000)}
position_figures.wavelengths(bases, HEAD_DIM, TRAINED, TARGET)

# %% [markdown]
# ## Methods that change distances by region
#
# These leave the frequencies alone and rotate far pairs by distances that training has seen. In the library each is a
# list of parts, a mask and the positions that queries and keys are rotated by; the parts are merged by log-sum-exp, so
# they run under every kernel and context-parallel strategy. Red: distances beyond training.

# %%
position_figures.distance_maps(["rope", "self_extend(4, 16)", "dca(48, 8)"], 192, 64)

# %%
position_figures.distance_maps(["rerope(32)", "leaky_rerope(32, 5)", "lm_infinite(4, 48)"], 192, 64)

# %% [markdown]
# ## Does it work?
#
# `python -m experiments.evaluate --workdir runs/quickstart --config.model.rope.factor=32` reads a trained model with
# another factor, and `--config.model.position="self_extend(8, 128)"` with another method.
