"""GGUF files: the model and the tokenizer that are in them, and files that are refused."""

import itertools
import json
import pathlib

import gguf
import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.run.sources import of_hugging_face
from experiments.settings import config as configs
from longctx import hf
from longctx.data import tokenizers
from longctx.errors import UserError
from longctx.hf import sources
from longctx.hf.gguf import file, header, quantized
from longctx.hf.gguf.tokenizer import Kind
from tests.helpers import nightly
from tests.longctx.hf import tiny
from tests.longctx.hf.gguf_files import content_of, write

YARN = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0, "original_max_position_embeddings": 64}
MODELS = {
    "llama": {},
    "llama_tied": {},
    "llama_linear": {},
    "llama_yarn": {"rope_scaling": YARN},
    "qwen2": {},
    "qwen3": {},
    "smollm3": {"no_rope_layers": None},
    "phi3": {},
    "phi3_longrope": {},
    "gpt_neox": {},
    "gpt_oss": {},
    "gemma2": {"query_pre_attn_scalar": 12},
    "gemma3": {"query_pre_attn_scalar": 12, "sliding_window_pattern": 6, "_sliding_window_pattern": 6},
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGCTX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def folder_of(tmp_path, name: str, content: dict, values: dict) -> pathlib.Path:
    folder = tiny.write(tmp_path / f"{name}-folder", name, values)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def assert_same_model(got: hf.Model, want: hf.Model) -> None:
    assert got.config == want.config
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)


def every_model_in_one_dtype() -> list:
    """(model, dtype) of each model, dtypes in turn; the nightly tier takes the rest."""
    dtypes = "float32", "float16", "bfloat16"
    first = list(zip(MODELS, itertools.cycle(dtypes), strict=False))
    return [*first, *nightly(*(case for case in itertools.product(MODELS, dtypes) if case not in first))]


@pytest.mark.parametrize("name, dtype", every_model_in_one_dtype())
def test_a_file_is_the_model_of_its_folder(tmp_path, name, dtype):
    """Every weight, bit for bit, and every setting. (1 + w) - 1 keeps w where it has few bits."""
    values = {tensor: np.round(value * 64) / 64 for tensor, value in tiny.tensors(name).items()}
    values = {
        tensor: value.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype) for tensor, value in values.items()
    }
    content = content_of(name, **MODELS[name]) | {"torch_dtype": dtype}
    path = write(tmp_path / f"{name}.gguf", content, values)
    assert_same_model(hf.load(path), hf.load(folder_of(tmp_path, name, content, values)))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantized_weights_are_what_they_stand_for(tmp_path, kind):
    quantization = gguf.GGMLQuantizationType[kind]
    content, values = content_of("qwen2", intermediate_size=64), tiny.tensors("qwen2")
    rng = np.random.default_rng(0)
    for tensor in [tensor for tensor in values if ".mlp." in tensor]:
        shape = (32, 64) if "down" in tensor else (64, 32)
        values[tensor] = rng.normal(size=shape).astype(np.float32)
    path = write(tmp_path / "qwen2.gguf", content, values, quantization)
    rounded = lambda value: gguf.quants.dequantize(gguf.quants.quantize(value, quantization), quantization)
    meant = {tensor: rounded(value) if value.ndim == 2 else value for tensor, value in values.items()}
    assert any((meant[tensor] != value).any() for tensor, value in values.items())
    assert_same_model(hf.load(path), hf.load(folder_of(tmp_path, "qwen2", content, meant)))


def test_experts_of_gpt_oss_in_mxfp4_are_what_they_stand_for(tmp_path):
    quantization = gguf.GGMLQuantizationType.MXFP4
    content, values, rng = (
        content_of("gpt_oss", intermediate_size=64),
        tiny.tensors("gpt_oss"),
        np.random.default_rng(0),
    )
    sizes = {"gate_up_proj": (4, 32, 128), "gate_up_proj_bias": (4, 128), "down_proj": (4, 64, 32)}
    for tensor in [tensor for tensor in values if "experts" in tensor]:
        values[tensor] = rng.normal(size=sizes.get(tensor.rpartition(".")[2], (4, 32))).astype(np.float32)
    path = write(tmp_path / "gpt_oss.gguf", content, values, quantization)
    rounded = lambda value: gguf.quants.dequantize(gguf.quants.quantize(value, quantization), quantization)
    by_inputs = lambda value: np.ascontiguousarray(value.swapaxes(1, 2))  # along which blocks lie
    meant = {name: by_inputs(rounded(by_inputs(x))) if x.ndim == 3 else x for name, x in values.items()}
    assert sum((meant[name] != x).any() for name, x in values.items()) == 2 * 3
    got = hf.load(path)
    assert_same_model(got, hf.load(folder_of(tmp_path, "gpt_oss", content, meant)))
    hf.save(got, tmp_path / "saved")  # with Hugging Face's names
    tiny.assert_same(tiny.read(tmp_path / "saved"), meant)


def test_a_gpt_oss_without_yarn_is_refused(tmp_path):
    path = write(tmp_path / "m.gguf", content_of("gpt_oss") | {"rope_scaling": None}, tiny.tensors("gpt_oss"))
    assert "gpt-oss.rope.scaling.type='none' is not supported; 'yarn' is" in refused(path)


def test_factors_of_frequencies_are_llama_3s_scaling(tmp_path):
    """As llama.cpp's converter works them out, of a model whose config.json has rope_type llama3."""
    content, values = content_of("llama_llama3"), tiny.tensors("llama_llama3")
    want = hf.load(folder_of(tmp_path, "llama_llama3", content, values))
    scaling, H = content["rope_scaling"], want.config.head_dim
    plain = content["rope_theta"] ** -(np.arange(0, H, 2) / H)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * plain / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    factors = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    path = write(
        tmp_path / "llama3.gguf",
        content | {"rope_scaling": None},
        values,
        more=lambda writer: writer.add_tensor("rope_freqs.weight", factors.astype(np.float32)),
    )
    ids = np.arange(2 * 40).reshape(2, 40) % 72
    got, want = hf.load(path)(ids), want(ids)
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


def test_the_factor_on_cos_and_sin_is_the_files(tmp_path):
    content = content_of("phi3_longrope")
    more = lambda writer: writer.add_rope_scaling_attn_factors(1.1902380714238083)
    path = write(tmp_path / "phi3.gguf", content, tiny.tensors("phi3_longrope"), more=more)
    assert hf.model_config(path).rope.attention_factor == pytest.approx(1.190238, abs=1e-6)
    assert hf.model_config(path).rope.rotary_fraction == 0.5


def test_a_gpt_neox_whose_halves_follow_one_another(tmp_path):
    content = content_of("gpt_neox", use_parallel_residual=False)
    config = hf.model_config(write(tmp_path / "m.gguf", content, tiny.tensors("gpt_neox")))
    assert (config.block, config.rope.rotary_fraction) == ("sequential", 0.25)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q5_1", "Q6_K"])
def test_values_of_blocks_are_the_librarys_bit_for_bit(kind):
    """Of bytes as they come: with scales that are negative, tiny, infinite and no numbers."""
    quantization = gguf.GGMLQuantizationType[kind]
    values, size = gguf.GGML_QUANT_SIZES[quantization]
    content = np.random.default_rng(0).integers(0, 256, (6, 4 * size)).astype(np.uint8)
    with np.errstate(all="ignore"):
        got = quantized.dequantized(kind, content.reshape(-1), (6, 4 * values))
        want = gguf.quants.dequantize(content, quantization)
    assert got.dtype == np.float32 and got.shape == want.shape
    np.testing.assert_array_equal(got, want)


def test_a_header_is_what_the_library_reads(tmp_path):
    def more(writer):
        sentence_piece(writer)
        writer.add_array("some.numbers", [1, 2, 3])
        writer.add_bool("some.flag", True)
        writer.add_float64("some.real", 1e-300)
        writer.add_array("some.nested", [[1, 2], [3]])
        writer.add_custom_alignment(64)

    path = write(tmp_path / "m.gguf", content_of("llama"), tiny.tensors("llama"), more=more)
    found, library = header.read(path), gguf.GGUFReader(path)
    theirs = {name: field.contents() for name, field in library.fields.items() if not name.startswith("GGUF.")}
    assert {name: found.metadata[name] for name in theirs if name != "some.nested"} == {
        name: value for name, value in theirs.items() if name != "some.nested"
    }
    assert found.metadata["some.nested"] == [[1, 2], [3]]
    for tensor in library.tensors:
        placed = found.tensors[tensor.name]
        assert (placed.kind, placed.offset) == (tensor.tensor_type.name, tensor.data_offset)
        assert placed.shape == tuple(reversed(tensor.shape.tolist())) and placed.bytes == tensor.n_bytes


def test_sizes_of_blocks_are_the_librarys():
    for values, size in ((header.KINDS[int(kind)], size) for kind, size in gguf.GGML_QUANT_SIZES.items() if kind < 40):
        assert values[1:] == size


@given(st.data())
def test_a_damaged_header_is_refused_in_a_line(tmp_path_factory, data):
    """Bytes changed anywhere: it is read all the same, or refused, and never asks for memory that is not there."""
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(write(folder / "m.gguf", content_of("llama"), {}, more=sentence_piece).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "m.gguf").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        file.metadata(folder / "m.gguf")
    except UserError as error:
        assert "is no GGUF file" in str(error) and "\n" not in str(error)


# ---- tokenizers


def byte_level(writer, pre="smollm"):
    letters = sorted(tokenizers_alphabet())
    merges = ["Ġ t", "t h", "Ġt h", "h e"]
    tokens = ["<|endoftext|>", "<|im_end|>", *letters, "Ġt", "th", "Ġth", "he", "<tool>"]
    kinds = [Kind.CONTROL, Kind.CONTROL, *[Kind.NORMAL] * (len(tokens) - 3), Kind.USER_DEFINED]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_eot_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages[0]['content'] }}")


def tokenizers_alphabet():
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel.alphabet()


def sentence_piece(writer):
    pieces = ["▁t", "he", "▁the", "▁", "t", "h", "e", "in", "i", "n"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, "  "]
    kinds = [Kind.UNKNOWN, *2 * [Kind.CONTROL], *256 * [Kind.BYTE], *len(pieces) * [Kind.NORMAL], Kind.USER_DEFINED]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(pieces))] + [-1000.0])
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def of_file(tmp_path, more):
    folder = sources.folder(write(tmp_path / "m.gguf", content_of("llama"), tiny.tensors("llama"), more=more))
    return tokenizers.load(str(folder)), folder


def words(tokenizer, text: str) -> list[str]:
    return [tokenizer._tokenizer.id_to_token(int(token)) for token in tokenizer.encode(text.encode())]


def test_a_byte_level_tokenizer(tmp_path):
    tokenizer, folder = of_file(tmp_path, byte_level)
    assert words(tokenizer, "the then 12") == ["th", "e", "Ġth", "e", "n", "Ġ", "1", "2"]
    assert words(tokenizer, "a<tool>b<|im_end|>")[:3] == ["a", "<tool>", "b"]
    assert len(words(tokenizer, "<|im_end|>")) == 10  # in documents its letters
    text = "naïve 日本語 \n\t the"
    assert tokenizer.decode(tokenizer.encode(text.encode())) == text
    assert (tokenizer.bos, tokenizer.eos, tokenizer.ends) == (0, 0, (0, 1))
    assert tokenizer.encode_prompt(b"the", 1000).tolist() == tokenizer.encode(b"the").tolist()  # no BOS in prompts
    assert json.loads((folder / "tokenizer_config.json").read_text())["chat_template"].startswith("{{ messages")


def test_words_of_gpt_4o(tmp_path):
    tokenizer, _ = of_file(tmp_path, lambda writer: byte_level(writer, "gpt-4o"))
    cut = tokenizer._tokenizer.pre_tokenizer.pre_tokenize_str("HelloWorld's éA 1234 //\n/x 日本")
    assert [word for word, _ in cut] == ["Hello", "World's", "ĠÃ©", "A", "Ġ", "123", "4", "Ġ//Ċ/", "x", "ĠæĹ¥æľ¬"]
    assert words(tokenizer, "the then") == ["th", "e", "Ġth", "e", "n"]


def test_a_sentence_piece_tokenizer(tmp_path):
    tokenizer, _ = of_file(tmp_path, sentence_piece)
    assert words(tokenizer, "in the hen") == ["in", "▁the", "▁", "he", "n"]
    assert words(tokenizer, "x  in") == ["<0x78>", "▁▁", "in"]  # a run of spaces is a token of its own
    text = "the é 日  in"
    assert tokenizer.decode(tokenizer.encode(text.encode())) == text
    assert tokenizer.encode_prompt(b"the", 1000)[0] == tokenizer.bos == 1 and tokenizer.eos == 2


# ---- the folder, and what is refused


def test_a_folder_is_made_once_and_follows_the_file(tmp_path, cache):
    path = write(tmp_path / "a.gguf", content_of("llama"), tiny.tensors("llama"))
    folder = sources.folder(path)
    made = (folder / "config.json").stat().st_mtime_ns
    moved = path.rename(tmp_path / "b.gguf")
    moved = moved.rename(tmp_path / "c" / "a.gguf") if (tmp_path / "c").mkdir() is None else moved
    assert sources.folder(moved) == folder and (folder / "config.json").stat().st_mtime_ns == made
    hf.load(folder)  # the link leads to where the file is now
    other = {tensor: value + 1 for tensor, value in tiny.tensors("llama").items()}
    assert sources.folder(write(moved, content_of("llama"), other)) != folder
    assert {path.parent for path in cache.glob("gguf/*")} == {folder.parent}


def unknown_tokenizer(writer):
    writer.add_tokenizer_model("bert")
    writer.add_token_list(["a"])


def refused(path) -> str:
    with pytest.raises(UserError) as error:
        hf.load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_that_are_refused(tmp_path):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(100))
    assert "is no GGUF file" in refused(damaged)
    whole = write(tmp_path / "whole.gguf", content_of("llama"), tiny.tensors("llama")).read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    assert "is no GGUF file" in refused(damaged)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "give its folder" in refused(tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "convert it with save_pretrained" in refused(tmp_path / "pytorch_model.bin")
    assert "does not exist; it must be the folder" in refused(tmp_path / "nothing")


@pytest.mark.parametrize(
    "more, words",
    [
        (lambda writer: writer.add_expert_count(8), "llama.expert_count=8 is not known"),
        (lambda writer: writer.add_rope_dimension_count(4), "llama.rope.dimension_count=4 is not supported; 12 is"),
        (lambda writer: byte_level(writer, "grok"), "tokenizer.ggml.pre='grok' is not known"),
        (
            lambda writer: writer.add_tokenizer_model("bert") or writer.add_token_list(["a"]),
            "model='bert' is not known",
        ),
        (lambda writer: writer.add_tensor("blk.0.extra.weight", np.ones(32, np.float32)), "blk.0.extra.weight"),
    ],
)
def test_what_is_not_known_is_named(tmp_path, more, words, cache):
    path = write(tmp_path / "m.gguf", content_of("llama"), tiny.tensors("llama"), more=more)
    assert words in refused(path) and str(path) in refused(path)
    assert not list(cache.glob("gguf/*"))


def test_an_architecture_that_is_not_known(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "bloom")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "general.architecture='bloom' is not known" in refused(tmp_path / "m.gguf")


def test_a_quantization_that_is_not_known(tmp_path, monkeypatch):
    path = write(tmp_path / "m.gguf", content_of("llama"), tiny.tensors("llama"))
    monkeypatch.setattr(file, "CODES", {})
    assert "has the type F32; known: " in refused(path)


# ---- commands


def test_a_run_starts_from_a_file(tmp_path):
    path = write(tmp_path / "m.gguf", content_of("llama", vocab_size=72), tiny.tensors("llama"), more=byte_level)
    config, _ = configs.from_command_line(["train", f"--config.init_from={path}", f"--workdir={tmp_path / 'run'}"])
    assert pathlib.Path(config.init_from) == sources.folder(path) == pathlib.Path(config.data.tokenizer)
    assert config.model.d_model == 32 and config.model.layers == 2


def test_a_file_goes_on_with_a_text(tmp_path):
    path = write(tmp_path / "m.gguf", content_of("llama"), tiny.tensors("llama"), more=byte_level)
    source = of_hugging_face(str(path), [])
    assert source.ends == (0, 1) and source.vocab_size == 72
    mesh, graph, params = source.load(64)
    assert params["embedding"]["table"].shape == (72, 32)


# ---- the hub's cache


def test_a_model_in_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    repository = tmp_path / "hub" / "models--org--name"
    for revision in ("older", "newer"):
        tiny.write(repository / "snapshots" / revision, "llama")
    assert hf.load("org/name").source in repository.glob("snapshots/*")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("older")
    assert hf.load("org/name").source == repository / "snapshots" / "older"
    assert "`hf download org/other` brings it there" in refused("org/other")
