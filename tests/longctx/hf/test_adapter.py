"""Adapters in peft's format: read against merged tensors made by hand, written back bit by bit, and peft itself."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from longctx import hf, meshes
from longctx.config import AttentionConfig, LoraConfig, MeshConfig
from longctx.errors import UserError
from longctx.model import functional
from tests.longctx.hf import tiny

RANK, ALPHA = 4, 12
IDS = np.arange(24).reshape(2, 12)
PROJECTIONS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")


def write(folder, base: dict, projections=PROJECTIONS, layers=(0, 1), rank=RANK, **settings):
    """The folder of an adapter of the model with the tensors `base`, drawn at random; returns its pairs (A, B)."""
    rng, tensors, pairs = np.random.default_rng(0), {}, {}
    for name in (f"model.layers.{i}.{projection}" for i in layers for projection in projections):
        outputs, inputs = base[f"{name}.weight"].shape
        a, b = (rng.normal(0, 0.1, shape).astype(np.float32) for shape in ((rank, inputs), (outputs, rank)))
        tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        pairs[f"{name}.weight"] = a, b
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    content = {"peft_type": "LORA", "r": rank, "lora_alpha": ALPHA, "bias": "none", "lora_dropout": 0.1}
    (folder / "adapter_config.json").write_text(json.dumps(content | settings))
    return pairs


def test_an_adapter_is_what_its_tensors_add_and_comes_back_bit_by_bit(tmp_path):
    base = tiny.tensors("llama")
    folder = tiny.write(tmp_path / "model", "llama")
    pairs = write(tmp_path / "adapter", base)
    added = {name: base[name] + ALPHA / RANK * b.astype(np.float64) @ a for name, (a, b) in pairs.items()}
    whole = base | {name: value.astype(np.float32) for name, value in added.items()}

    model = hf.load(folder, adapter=tmp_path / "adapter")
    assert model.config.lora == LoraConfig(RANK, ALPHA, ("attention.wo", "attention.wq", "mlp.down"))
    want = hf.load(tiny.write(tmp_path / "whole", "llama", whole))(IDS)
    assert abs(hf.load(folder)(IDS) - want).max() > 0.1
    np.testing.assert_allclose(model(IDS), want, rtol=0, atol=2e-6 * abs(want).max())
    np.testing.assert_allclose(model.merged(IDS), want, rtol=0, atol=2e-6 * abs(want).max())

    hf.save_adapter(model, tmp_path / "again", base="org/name")
    written, given = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("again", "adapter"))
    tiny.assert_same(written, given)
    content = json.loads((tmp_path / "again/adapter_config.json").read_text())
    assert (content["r"], content["lora_alpha"], content["base_model_name_or_path"]) == (RANK, ALPHA, "org/name")
    assert content["target_modules"] == ["down_proj", "o_proj", "q_proj"] and content["peft_type"] == "LORA"

    hf.save(model, tmp_path / "merged")
    saved = tiny.read(tmp_path / "merged")
    for name, value in whole.items():
        np.testing.assert_allclose(saved[name], value, rtol=0, atol=0 if name not in added else 1e-6 * abs(value).max())

    write(tmp_path / "adapter", base, use_rslora=True)
    scaled = hf.load(folder, adapter=tmp_path / "adapter").config.lora
    assert scaled.alpha / scaled.rank == pytest.approx(ALPHA / RANK**0.5)


def drawn(rng, *shape):
    return rng.normal(0, 0.1, shape).astype(np.float32)


def test_experts_the_embedding_and_the_head_have_adapters_in_peft_s_format(tmp_path):
    """Rows of an expert's lora_A follow one another, and columns of lora_B are E apart; those of the embedding have
    names of their own, and peft writes the embedding and the head themselves too."""
    base, rng, at = tiny.tensors("gpt_oss"), np.random.default_rng(0), "base_model.model."
    folder, adapter = tiny.write(tmp_path / "model", "gpt_oss"), tmp_path / "adapter"
    (E, F, D), (V, _) = base["model.layers.0.mlp.experts.down_proj"].shape, base["lm_head.weight"].shape
    tensors, whole, scale = {}, dict(base), ALPHA / RANK
    for i in range(3):
        a, b, name = drawn(rng, E, RANK, F), drawn(rng, E, D, RANK), f"model.layers.{i}.mlp.experts"
        tensors[f"{at}{name}.lora_A.weight"] = a.reshape(E * RANK, F)
        tensors[f"{at}{name}.lora_B.weight"] = np.ascontiguousarray(b.transpose(1, 2, 0).reshape(D, RANK * E))
        whole[f"{name}.down_proj"] = base[f"{name}.down_proj"] + scale * np.einsum("eri,eor->eio", a, b)
    for name, A, B in (
        ("model.embed_tokens", "lora_embedding_A", "lora_embedding_B"),
        ("lm_head", "lora_A.weight", "lora_B.weight"),
    ):
        a, b = (
            (drawn(rng, RANK, V), drawn(rng, D, RANK)) if "embed" in A else (drawn(rng, RANK, D), drawn(rng, V, RANK))
        )
        tensors |= {f"{at}{name}.{A}": a, f"{at}{name}.{B}": b, f"{at}{name}.base_layer.weight": base[f"{name}.weight"]}
        whole[f"{name}.weight"] = base[f"{name}.weight"] + scale * ((b @ a).T if "embed" in A else b @ a)
    write(adapter, base, projections=(), target_parameters=["mlp.experts.down_proj"])
    save_file(tensors, adapter / "adapter_model.safetensors")

    model = hf.load(folder, adapter=adapter)
    assert model.config.lora == LoraConfig(RANK, ALPHA, ("mlp.expert_down", "embedding.table", "head"))
    want = hf.load(tiny.write(tmp_path / "whole", "gpt_oss", whole))(IDS)
    assert abs(hf.load(folder)(IDS) - want).max() > 0.1
    for found in model, model.merged:
        np.testing.assert_allclose(found(IDS), want, rtol=0, atol=3e-6 * abs(want).max())
    hf.save_adapter(model, tmp_path / "again")
    written = load_file(tmp_path / "again/adapter_model.safetensors")
    tiny.assert_same(written, {name: value for name, value in tensors.items() if "base_layer" not in name})
    content = json.loads((tmp_path / "again/adapter_config.json").read_text())
    assert content["target_modules"] == ["embed_tokens", "lm_head"]
    assert content["target_parameters"] == [f"model.layers.{i}.mlp.experts.down_proj" for i in range(3)]

    tensors[f"{at}lm_head.base_layer.weight"] = base["lm_head.weight"] + 1
    save_file(tensors, adapter / "adapter_model.safetensors")
    assert "lm_head.base_layer.weight, which is not the model's" in refused(hf.load, folder, adapter=adapter)
    write(adapter, base, projections=(), target_parameters=["mlp.experts.gate_up_proj"])
    said = refused(hf.load, folder, adapter=adapter)
    assert "target_parameters has 'mlp.experts.gate_up_proj'; down_proj can have adapters" in said


def test_an_adapter_of_a_tied_embedding_is_refused(tmp_path):
    folder, adapter = tiny.write(tmp_path / "model", "llama_tied"), tmp_path / "adapter"
    V, D = tiny.tensors("llama_tied")["model.embed_tokens.weight"].shape
    write(adapter, {}, projections=())
    at, zeros = "base_model.model.model.embed_tokens.lora_embedding_", np.zeros((RANK, V), np.float32)
    save_file({f"{at}A": zeros, f"{at}B": np.zeros((D, RANK), np.float32)}, adapter / "adapter_model.safetensors")
    said = refused(hf.load, folder, adapter=adapter)
    assert "embed_tokens.lora_embedding_" in said and "the head of this model is its embedding" in said


def refused(call, *args, **how) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_adapter_of_the_model_is_refused_in_a_line(tmp_path):
    base, folder, adapter = tiny.tensors("llama"), tiny.write(tmp_path / "model", "llama"), tmp_path / "adapter"
    said = lambda: refused(hf.load, folder, adapter=adapter)
    assert f"{adapter} has no adapter_config.json" in said()
    write(adapter, tiny.tensors("phi3"), ("self_attn.qkv_proj",))
    assert "is the adapter of another model" in (message := said()) and "qkv_proj.lora_A.weight" in message
    write(adapter, base, layers=(0,))
    assert "not one of all its layers" in said()
    wider = {name: np.concatenate([value, value], -1) for name, value in base.items() if "q_proj" in name}
    write(adapter, wider, ("self_attn.q_proj",))
    assert (
        "is the adapter of another model: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight is" in said()
    )
    for settings, part in (
        (dict(use_dora=True), "use_dora=True is not known; plain LoRA is"),
        (dict(bias="all"), "bias='all'"),
        (dict(peft_type="IA3"), "peft_type='IA3'"),
        (dict(init_lora_weights="pissa"), "init_lora_weights='pissa'"),
        (dict(rank_pattern={"q_proj": 8}), "rank_pattern="),
        (dict(r=0), "r=0 must be a whole number from 1"),
    ):
        write(adapter, base, **settings)
        assert part in said()
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    assert "has no adapter_model.safetensors" in said()


def test_weights_that_share_a_tensor_cannot_be_written_as_adapters(tmp_path):
    folder, adapter = tiny.write(tmp_path / "model", "phi3"), tmp_path / "adapter"
    write(adapter, tiny.tensors("phi3"), ("self_attn.o_proj",))
    model = hf.load(folder, adapter=adapter)
    assert model.config.lora.targets == ("attention.wo",)
    config = dataclasses.replace(model.config, lora=LoraConfig(rank=2, targets=("attention.wq",)))
    with jax.set_mesh(meshes.make(MeshConfig())):
        params = jax.jit(lambda: functional.init(config, AttentionConfig(), jax.random.key(0)))()
    whole = dataclasses.replace(model, config=config, params=params)
    assert "attention.wq is a part of a larger tensor in models of Phi3ForCausalLM" in refused(
        hf.save_adapter, whole, tmp_path / "out"
    )
    assert "the model has no adapters" in refused(hf.save_adapter, hf.load(folder), tmp_path / "out")


ENDS = ["embed_tokens", "embed_in", "lm_head"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "phi3", "gpt_neox", "mistral", "gpt_oss"])
def test_peft_reads_what_is_written_and_writes_what_is_read(name, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[bench]'", exc_type=ImportError)
    import torch
    import transformers

    modules = {"phi3": ["o_proj", "down_proj"], "gpt_neox": ["dense"]}.get(name, ["q_proj", "o_proj", "up_proj"])
    modules = [*modules, *([] if tiny.config(name)["tie_word_embeddings"] else ENDS)]
    more = {"target_parameters": ["mlp.experts.down_proj"]} if name == "gpt_oss" else {}
    folder = tiny.write(tmp_path / "model", name)
    load = lambda: transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = IDS % tiny.config(name)["vocab_size"]

    def logits(model):
        with torch.no_grad():
            return model(torch.tensor(ids)).logits.numpy()

    torch.manual_seed(0)
    how = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules, init_lora_weights=False, **more)
    theirs = peft.get_peft_model(load(), how)
    theirs.save_pretrained(tmp_path / "theirs")
    want, model = logits(theirs), hf.load(folder, adapter=tmp_path / "theirs")
    assert abs(logits(load()) - want).max() > 1
    np.testing.assert_allclose(model(ids), want, rtol=0, atol=3e-6 * abs(want).max())
    hf.save_adapter(model, tmp_path / "ours")
    np.testing.assert_array_equal(logits(peft.PeftModel.from_pretrained(load(), tmp_path / "ours")), want)
