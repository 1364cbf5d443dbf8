"""The decoder against an independent dense one in numpy; the same numbers on every mesh, under every remat policy."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longctx import layouts, loss, meshes
from longctx.config import AttentionConfig, MeshConfig, ModelConfig, RopeConfig
from longctx.data.loss_weights import weighted
from longctx.memory.remat import POLICIES
from longctx.model import functional
from longctx.positions import api as positions
from pallas_kernels import masks
from tests.helpers import assert_close, nightly, packed, slow

TINY = ModelConfig(vocab_size=32, layers=2, d_model=32, mlp_dim=48, heads=4, kv_heads=2, head_dim=8, dtype="float32")
VARIANTS = {
    "plain": TINY,
    "everything": dataclasses.replace(
        TINY,
        qk_norm="rms",
        qkv_bias=True,
        tied_head=True,
        logit_soft_cap=5.0,
        attention_soft_cap=4.0,
        mask="causal & window(7)",
        rope=RopeConfig(theta=500.0),
    ),
}


def batch(B=4, T=32, V=32, seed=0):
    rng = np.random.default_rng(seed)
    where = packed(seed, B, T, mean=20)
    return {
        "tokens": rng.integers(0, V, (B, T)).astype(np.int32),
        "targets": rng.integers(0, V, (B, T)).astype(np.int32),
        "weights": np.asarray(where.segments > 0, np.float32),
        "positions": np.asarray(where.positions),
        "segments": np.asarray(where.segments),
    }


@functools.cache
def setup(config: ModelConfig, mesh_config: MeshConfig):
    mesh, attention = meshes.make(mesh_config), AttentionConfig()
    with jax.set_mesh(mesh):
        params = jax.jit(lambda: functional.init(config, attention, jax.random.key(0)))()
        biased = jax.tree.map_with_path(lambda path, x: x + 0.1 if path[-1].key in ("bq", "bk", "bv") else x, params)
        return mesh, functional.graph(config, attention), biased


@functools.cache
def step(config: ModelConfig, mesh_config: MeshConfig):
    _, graph, _ = setup(config, mesh_config)

    def mean(params, placed):
        nll = functional.nll(graph, params, placed)
        return loss.mean_over_tokens(nll, placed["weights"]), nll

    return jax.jit(jax.value_and_grad(mean, has_aux=True))


def nll_and_grads(config, mesh_config, data, layout="contiguous"):
    mesh, _, params = setup(config, mesh_config)
    placed = meshes.put_batch(layouts.lay_out(data, layout, mesh_config.context), mesh)
    back = layouts.inverse(layouts.permutation(layout, data["segments"], mesh_config.context))
    with jax.set_mesh(mesh):
        (_, nll), grads = step(config, mesh_config)(params, placed)
    return layouts.permute(np.asarray(nll), back), jax.tree.map(np.asarray, grads)


def dense(config: ModelConfig, params, data):
    """Logits [B, T, V] in float64 numpy, written from the paper rather than from the modules."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    norm = lambda x, scale: x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps) * scale
    cap = lambda x, c: c * np.tanh(x / c) if c else x
    where = masks.TokenInfo(*(jnp.asarray(data[n]) for n in ("positions", "segments")))

    def rotate(x, kind):
        if kind.position == "nope":
            return x
        rope = kind.rope or config.rope
        inv_freq, _ = positions.frequencies(rope, config.head_dim, x.shape[1])
        cut = np.s_[0::2], np.s_[1::2]
        if rope.pairing == "half":
            cut = np.s_[: len(inv_freq)], np.s_[len(inv_freq) :]
        z = (x[..., cut[0]] + 1j * x[..., cut[1]]) * np.exp(1j * data["positions"][..., None, None] * inv_freq)
        turned = np.empty_like(x)
        turned[..., cut[0]], turned[..., cut[1]] = z.real, z.imag
        return turned

    def sharper(q, kind):
        if kind.query_scale == "none":
            return q
        scale, share = (float(number) for number in re.findall(r"[\d.]+", kind.query_scale)[1:])  # of llama4
        return q * (1 + share * np.log1p((data["positions"] + 1) // scale))[..., None, None]

    x = p["embedding"]["table"][data["tokens"]] * config.d_model**0.5
    n = len(config.kinds)
    for i in range(config.layers):
        kind, b = config.kinds[i % n], jax.tree.map(lambda w, i=i: w[i // n], p["blocks"][i % n])
        see = np.asarray(masks.visible(masks.parse(kind.mask) & masks.Segments(), where, where))[:, None]
        a, h = b["attention"], norm(x, b["attention_norm"]["scale"])
        q, k, v = (
            np.einsum("BTD,DNH->BTNH", h, a[w]) + (a["b" + w[1]] if config.qkv_bias else 0) for w in ("wq", "wk", "wv")
        )
        if config.qk_norm == "rms":
            q, k = norm(q, a["q_norm"]["scale"]), norm(k, a["k_norm"]["scale"])
        k, v = (np.repeat(y, config.heads // config.kv_heads, axis=2) for y in (rotate(k, kind), v))
        q = rotate(sharper(q, kind), kind)
        s = cap(np.einsum("BTNH,BSNH->BNTS", q, k) / config.head_dim**0.5, config.attention_soft_cap)
        w = np.where(see, np.exp(s), 0)
        w = w / np.maximum(w.sum(-1, keepdims=True), 1e-300)
        x = x + np.einsum("BNTS,BSNH,NHD->BTD", w, v, a["wo"], optimize=True)
        h = norm(x, b["mlp_norm"]["scale"])
        gate = h @ b["mlp"]["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ b["mlp"]["up"])) @ b["mlp"]["down"]
    x = norm(x, p["norm"]["scale"])
    return cap(x @ (p["embedding"]["table"].T if config.tied_head else p["head"]), config.logit_soft_cap)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_decoder_is_what_the_paper_says(variant):
    config, data = VARIANTS[variant], batch()
    mesh, graph, params = setup(config, MeshConfig())
    want = dense(config, params, data)
    with jax.set_mesh(mesh):
        placed = meshes.put_batch(data, mesh)
        logits = jax.jit(lambda p: functional.logits(graph, p, placed))(params)
        nll = jax.jit(lambda p: functional.nll(graph, p, placed))(params)
    assert_close(logits, want, "float32", 1000)
    log_p = want - np.log(np.exp(want).sum(-1, keepdims=True))
    assert_close(nll, -np.take_along_axis(log_p, data["targets"][..., None], -1)[..., 0], "float32", 1000)


@pytest.mark.canary
@pytest.mark.parametrize(
    "mesh_config, layout",
    [
        (MeshConfig(fsdp=2, context=2, tensor=2), "striped(4)"),
        *slow((MeshConfig(data=2, context=4), "per_document")),
        *nightly((MeshConfig(data=2, fsdp=2, tensor=2), "contiguous"), (MeshConfig(context=4, fsdp=2), "zigzag")),
    ],
)
def test_every_mesh_gives_the_same_losses_and_gradients(mesh_config, layout):
    config, data = VARIANTS["everything"], batch()
    got, want = nll_and_grads(config, mesh_config, data, layout), nll_and_grads(config, MeshConfig(), data)
    assert_close(got, want, "float32", 1000)


@pytest.mark.parametrize(
    "policy",
    [
        "attention",
        *slow(
            *(name for name in POLICIES if name not in ("none", "attention", "tokens")),
            "tokens(0.5, 0.5)",
            "tokens(0, 0.01)",
        ),
    ],
)
def test_remat_changes_no_gradient(policy):
    got = nll_and_grads(dataclasses.replace(TINY, remat=policy), MeshConfig(), batch())
    assert_close(got, nll_and_grads(dataclasses.replace(TINY, remat="none"), MeshConfig(), batch()), "float32", 1000)


@pytest.mark.parametrize("mesh_config, layout", [(MeshConfig(), "contiguous"), (MeshConfig(context=3), "per_document")])
def test_a_packed_batch_is_the_mean_over_its_documents_alone(mesh_config, layout):
    """Gradients of packed rows = mean over unpacked documents, weighted by data.loss_weights: none sees another."""
    data, exponents = batch(B=2, T=48), (1.0, 0.5, 0.0)
    packed = [nll_and_grads(TINY, mesh_config, weighted(data, exponent), layout) for exponent in exponents]
    nll, lengths, alone_all = packed[0][0], [], []
    for row in range(2):
        for segment in range(1, data["segments"][row].max() + 1):
            at = data["segments"][row] == segment
            n = int(at.sum())
            alone = {name: np.pad(x[row, at], (0, 48 - n))[None].repeat(2, 0) for name, x in data.items()}
            alone_nll, alone_grads = nll_and_grads(TINY, MeshConfig(), alone)
            np.testing.assert_allclose(alone_nll[0, :n], nll[row, at], rtol=1e-4, atol=1e-5)
            lengths.append(n)
            alone_all.append(alone_grads)
    for exponent, (_, grads) in zip(exponents, packed, strict=True):
        shares = np.array(lengths) ** exponent / np.sum(np.array(lengths) ** exponent)
        mean = jax.tree.map(lambda *g, shares=shares: np.tensordot(shares, np.stack(g), 1), *alone_all)
        assert_close(grads, mean, "float32", 1000)


def test_bfloat16_compute_stays_near_float32():
    data = batch()
    exact, _ = nll_and_grads(TINY, MeshConfig(), data)
    rounded, _ = nll_and_grads(dataclasses.replace(TINY, dtype="bfloat16"), MeshConfig(), data)
    assert abs((exact - rounded)[data["weights"] > 0].mean()) < 0.01
