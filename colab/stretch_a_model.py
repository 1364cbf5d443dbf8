# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Stretch a model beyond the length it was trained at
#
# A model reads well up to its trained length, and then falls apart: it meets distances between tokens that it has never
# seen. Here one model is read at longer lengths by several position methods, without training, and two questions are
# put to each: does it find a number hidden in the text, and does it still predict real text?
#
# `MODEL` may be any Hugging Face folder, a `.gguf` file, or the id of a model in the hub's cache. Left empty, a toy is
# trained first, which takes half a minute and learns little: it shows how it goes, not what comes out. (SmolLM2-135M at
# 16,384 tokens, twice its length, takes two processor cores about a minute per prompt and method.)

# %%
# %matplotlib inline
import json
import pathlib
import subprocess
import sys
import tempfile

from matplotlib import image, pyplot

import longctx as lc

MODEL = ""  # such as "SmolLM2-135M-Instruct.Q4_1.gguf"
LENGTHS = "(8192, 16384)" if MODEL else "(256, 1024)"
METHODS = "('none', 'linear', 'yarn', 'self_extend', 'streaming')"
ROWS = 4  # prompts with a hidden number, per method and length

root = next(path for path in (pathlib.Path(lc.__file__).parents[1], pathlib.Path.cwd()) if (path / "configs").exists())
work = pathlib.Path(tempfile.mkdtemp())


def run(*command, lines=12):
    """Runs a command of experiments/ and prints its last lines."""
    done = subprocess.run([sys.executable, "-m", *map(str, command)], cwd=root, capture_output=True, text=True)
    print("\n".join((done.stdout if not done.returncode else done.stderr).splitlines()[-lines:]))
    done.check_returncode()


# %% [markdown]
# ## The model
#
# The toy is the quickstart's smoke run, of which only the first stage matters here: bytes of Python's own library.

# %%
model = MODEL or work / "toy"
if not MODEL:
    run("experiments.train", "--config", "configs/quickstart.py:smoke", "--workdir", model, lines=3)

# %% [markdown]
# ## Every method, at every length
#
# `experiments.extend` starts inside the trained length, where all methods should agree: what they lose there is the
# price of the method itself. Each cell is a line as soon as it is read, and a second start goes on behind the last one.
# `data.path=pydoc` is the reference of the Python language, prose of 20,000 tokens and more.

# %%
settings = {
    "init_from": model,
    "data.path": "pydoc",
    "data.holdout": 1.0,  # all of it: nothing is trained on it
    "eval.documents": 2,
    "extend.lengths": LENGTHS,
    "extend.methods": METHODS,
    "extend.rows": ROWS,
    "extend.depths": 4,
}
run(
    "experiments.extend", *(f"--config.{name}={value}" for name, value in settings.items()), "--workdir", work, lines=30
)

# %% [markdown]
# ## Hidden numbers
#
# Left: the share that is found, by method and length. Right: the same by where in the text the number stands. A window
# (`streaming`) cannot find what has left it, whatever it says about the loss.

# %%
_, axes = pyplot.subplots(figsize=(13, 4.5), layout="constrained")
axes.imshow(image.imread(work / "extend-passkey.png"))
_ = axes.axis("off")

# %% [markdown]
# ## Real text
#
# The loss should fall, or at least not rise, as more text stands before a token. Where the curve of `none` turns upward
# is the end of what the model was trained for.

# %%
_, axes = pyplot.subplots(figsize=(13, 4.5), layout="constrained")
axes.imshow(image.imread(work / "extend-loss.png"))
_ = axes.axis("off")

# %% [markdown]
# Both pictures come from `extend.json`, which has counts and 95% intervals too:

# %%
for task in json.loads((work / "extend.json").read_text())["tasks"]:
    best = max if task["chance"] is not None else min
    values = {record["name"]: record["value"][-1] for record in task["records"] if record["value"][-1] is not None}
    name = best(values, key=values.get)
    print(f"{task['what']}, at {task['lengths'][-1]:,} tokens: {name} is best with {values[name]:.3f}")

# %% [markdown]
# Next: the same model after a short tuning, `docs/guides/longer_context.md`.
