"""Equality of logits, loss, gradients and greedy tokens with transformers, for every architecture and RoPE scaling."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longctx import hf, meshes
from longctx.hf import folder, parameters
from longctx.loss import mean_over_tokens
from longctx.model import functional
from tests.helpers import assert_close, nightly, relative_error, slow, tolerance
from tests.longctx.hf import tiny

TERMS = 2000  # a logit's: over the layers, of the widths and of 200 positions
LAST = 6  # positions whose logits are kept
START = 40  # tokens of a prompt
BY_LENGTH = ("dynamic", "longrope")  # scalings by which all logits depend on the length
# in the quick tier
LOGITS = ("llama_dynamic", "qwen2_window", "gemma3", "phi3_longrope", "gpt_neox", "gpt_oss", "llama4_interleaved")
GRADIENTS = ("qwen3_yarn",)
GENERATED = ("gpt_oss",)
FAST_COMPILE = {"xla_backend_optimization_level": 0}


def cases(quick, thorough=tiny.NAMES):
    """The families: those named `quick` in the main tier, the `thorough` ones in the slow tier, the rest nightly."""
    second = [name for name in tiny.NAMES if name in thorough and name not in quick]
    return [*quick, *slow(*second), *nightly(*(name for name in tiny.NAMES if name not in (*quick, *second)))]


@pytest.mark.parametrize("name", cases(LOGITS))
def test_logits_and_greedy_tokens(tmp_path, name):
    golden, model = tiny.golden(name), hf.load(tiny.write(tmp_path, name))
    ids = golden["ids"]
    if model.config.rope.scaling in BY_LENGTH:
        for length in (16, 200):  # 64: the loss, below
            got = model(ids[:, :length])
            assert_close(got[:, -LAST:], golden[f"logits_{length}"], jnp.float32, TERMS, f"{length} tokens")
        return
    got = model(ids)
    for length in (16, 64, 200):  # causal: a prefix is computed as if it were alone
        assert_close(got[:, length - LAST : length], golden[f"logits_{length}"], jnp.float32, TERMS, f"{length} tokens")
    new = golden["greedy"]
    continued = np.array(ids)
    continued[:, START : START + new.shape[1]] = new
    got = model(continued)[:, START - 1 : START - 1 + new.shape[1]]
    np.testing.assert_array_equal(got.argmax(-1), new)


@pytest.mark.parametrize("name", cases(GENERATED, ("gemma2",)))
def test_generated_tokens(tmp_path, name):
    """Token by token those of transformers, the prompt read in chunks that do not divide it."""
    golden, model = tiny.golden(name), hf.load(tiny.write(tmp_path, name))
    prompts = golden["ids"][:, :START]
    new = golden.get("greedy")
    if new is None:  # transformers' angles change with every token there
        assert model.config.rope.scaling in BY_LENGTH
        uncached = model(prompts)[:, -1].argmax(-1)  # of the first token alone
        got = model.generate(prompts, 1, stop=(), chunk=16, length=START)
        np.testing.assert_array_equal(got[:, START], uncached)
        return
    got = model.generate(prompts, new.shape[1], stop=(), chunk=16)
    np.testing.assert_array_equal(got, np.concatenate([prompts, new], 1))
    ended = model.generate(list(prompts), new.shape[1], stop=(int(new[0, 1]),), chunk=16)
    assert len(ended[0]) <= START + 2 and ended[0][-1] == new[0, 1]


@pytest.mark.parametrize("name", cases(GRADIENTS, ("gpt_neox",)))
def test_loss_and_gradients(tmp_path, name):
    golden, model = tiny.golden(name), hf.load(tiny.write(tmp_path, name))
    loss, gradients = _loss_and_gradients(model, golden["ids"][:, :64].astype(np.int32))
    assert_close(loss, golden["loss"], jnp.float32, TERMS)
    norms = json.loads(str(golden["gradnorm"]))
    assert norms.keys() == gradients.keys()
    for tensor, norm in norms.items():
        assert relative_error(np.linalg.norm(gradients[tensor]), norm) <= tolerance(jnp.float32, TERMS), tensor
    for key in golden:
        if key.startswith("gradient/"):
            assert_close(gradients[key.removeprefix("gradient/")], golden[key], jnp.float32, TERMS, key)


def _loss_and_gradients(model, ids):
    """The mean loss over the targets that a row has, and its gradients by the names of a checkpoint."""
    rows, length = ids.shape
    batch = {
        "tokens": ids,
        "targets": np.roll(ids, -1, 1),
        "segments": np.ones_like(ids),
        "positions": np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)),
        "weights": np.broadcast_to((np.arange(length) < length - 1).astype(np.float32), (rows, length)),
    }
    graph = model.graph
    mean = lambda params, batch: mean_over_tokens(functional.nll(graph, params, batch), batch["weights"])
    with jax.set_mesh(model.mesh):
        step = jax.jit(jax.value_and_grad(mean), compiler_options=FAST_COMPILE)
        loss, gradients = step(model.params, meshes.put_whole(batch, model.mesh))
        located = parameters.locate(folder.architecture_of(model.settings), model.config, model.params)
        made = parameters.Tensors(located, gradients)
        return loss, {name: made(name) for name in made.planned}
