"""Makes positions.npz: position methods as transformers computes them, in double precision where it says float32.

    python tests/golden/make_positions.py         # needs transformers 5.23 and torch: pip install -e '.[bench]'

rope/NAME/LENGTH   inverse frequencies of a setting, for a row of that length (0: none is given), and rope/NAME/factor,
                   what cos and sin are multiplied by; `settings` (JSON) has each setting in the fields of RopeConfig
apply/PAIRING/...  q, k at `positions`, and both rotated with plain RoPE (Llama's apply_rotary_pos_emb, GPT-J's)
t5/B-M-bidirectional   bucket of each distance, query's position - key's, in `distances`, for B buckets up to M
alibi/N            the slopes of N heads, as Bloom has them
"""

import json
import pathlib

import numpy as np
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as rotate_interleaved
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_half
from transformers.models.t5.modeling_t5 import T5Attention

SHORT, LONG = np.linspace(1, 2, 32).round(4).tolist(), np.linspace(1.1, 40, 32).round(4).tolist()
# ours -> transformers'
NAMES = {
    "factor": "factor",
    "original_length": "original_max_position_embeddings",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "truncate": "truncate",
    "attention_factor": "attention_factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "short_factors": "short_factor",
    "long_factors": "long_factor",
    "rotary_fraction": "partial_rotary_factor",
}
SETTINGS = {  # name -> (head dim, RopeConfig, row lengths)
    "default_hd16_b1e4": (16, dict(), [0]),
    "default_hd64_b1e4": (64, dict(), [0]),
    "default_hd128_b1e4": (128, dict(), [0]),
    "default_hd128_b5e6": (128, dict(theta=5e6), [0]),
    "default_hd128_b1e7": (128, dict(theta=1e7), [0]),
    "linear_s2_hd64": (64, dict(scaling="linear", factor=2.0), [0]),
    "linear_s8_hd64": (64, dict(scaling="linear", factor=8.0), [0]),
    "linear_s4_hd128": (128, dict(scaling="linear", factor=4.0), [0]),
    "dynamic_s1_hd64": (64, dict(scaling="dynamic", factor=1.0, original_length=256), [1, 256, 257, 512, 4096]),
    "dynamic_s8_hd64": (64, dict(scaling="dynamic", factor=8.0, original_length=256), [1, 256, 257, 512, 4096]),
    "dynamic_s4_hd128": (128, dict(scaling="dynamic", factor=4.0, original_length=2048), [2048, 2049, 32768]),
    **{
        f"yarn_s{s}_hd64": (64, dict(scaling="yarn", factor=float(s), original_length=256), [0]) for s in (2, 4, 16, 32)
    },
    "yarn_qwen2.5_s4": (128, dict(theta=1e6, scaling="yarn", factor=4.0, original_length=32768), [0]),
    "yarn_beta": (64, dict(scaling="yarn", factor=8.0, original_length=256, beta_fast=16.0, beta_slow=2.0), [0]),
    "yarn_mscale_deepseek_v2": (
        64,
        dict(scaling="yarn", factor=40.0, original_length=4096, mscale=0.707, mscale_all_dim=0.707),
        [0],
    ),
    "yarn_mscale_uneven": (64, dict(scaling="yarn", factor=40.0, original_length=4096, mscale_all_dim=0.8), [0]),
    "yarn_tiny_L64": (32, dict(scaling="yarn", factor=8.0, original_length=64), [0]),
    "yarn_untruncated": (64, dict(theta=1.5e5, scaling="yarn", factor=32.0, original_length=4096, truncate=False), [0]),
    "yarn_attention_factor": (64, dict(scaling="yarn", factor=4.0, original_length=512, attention_factor=1.5), [0]),
    "yarn_partial": (64, dict(scaling="yarn", factor=4.0, original_length=512, rotary_fraction=0.5), [0]),
    "llama3_s2_hd128": (128, dict(theta=5e5, scaling="llama3", factor=2.0, original_length=8192), [0]),
    "llama3_s8_hd128": (128, dict(theta=5e5, scaling="llama3", factor=8.0, original_length=8192), [0]),
    "longrope_nofactor": (
        64,
        dict(scaling="longrope", factor=8.0, original_length=512, short_factors=SHORT, long_factors=LONG),
        [512, 513],
    ),
    "longrope_attn": (
        64,
        dict(
            scaling="longrope",
            factor=8.0,
            original_length=512,
            short_factors=SHORT,
            long_factors=LONG,
            attention_factor=1.25,
        ),
        [512, 513],
    ),
    "partial_gptneox_0.25": (64, dict(rotary_fraction=0.25), [0]),
    "partial_stablelm_0.25": (64, dict(rotary_fraction=0.25), [0]),
    "proportional_0.25": (64, dict(theta=1e6, scaling="proportional", rotary_fraction=0.25), [0]),
    "proportional_0.5_s4": (64, dict(theta=1e6, scaling="proportional", rotary_fraction=0.5, factor=4.0), [0]),
    "proportional_1.0": (64, dict(theta=1e6, scaling="proportional"), [0]),
}
T5 = [(32, 128, False), (32, 128, True), (8, 20, False), (16, 1000, True)]
HEADS = (4, 6, 12, 16)


def main() -> None:
    arrays = {
        "settings": json.dumps(
            {
                name: {"head_dim": head_dim, **config, "lengths": lengths}
                for name, (head_dim, config, lengths) in SETTINGS.items()
            }
        )
    }
    arrays |= applied() | biases()
    torch.float = torch.float32 = torch.float64  # the frequencies are asked for in these
    torch.Tensor.float = torch.Tensor.double
    for name, (head_dim, config, lengths) in SETTINGS.items():
        for length in lengths:
            inv_freq, arrays[f"rope/{name}/factor"] = frequencies(head_dim, config, length or None)
            arrays[f"rope/{name}/{length}"] = inv_freq.numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("positions.npz"), **arrays)


def frequencies(head_dim: int, ours: dict, length: int | None):
    """What transformers computes for a RopeConfig."""
    scaling = ours.get("scaling", "default")
    theirs = {NAMES[name]: value for name, value in ours.items() if name in NAMES}
    if "mscale_all_dim" in theirs:
        theirs.setdefault("mscale", 1.0)
    if scaling == "llama3":
        theirs |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=ours.get("original_length", 2048),
        rope_parameters={"rope_type": scaling, "rope_theta": ours.get("base", 1e4), **theirs},
    )
    if scaling == "default":
        return GPTNeoXRotaryEmbedding.compute_default_rope_parameters(config, "cpu")
    return ROPE_INIT_FUNCTIONS[scaling](config, "cpu", length)


def applied() -> dict[str, np.ndarray]:
    """In float32: at low positions, where its angles are good."""
    positions = torch.arange(12)
    q, k = torch.randn(2, 1, 2, 12, 64, generator=torch.Generator().manual_seed(0))  # each BNTH
    cos, sin = LlamaRotaryEmbedding(LlamaConfig(hidden_size=256, num_attention_heads=4))(q, positions[None])
    half = rotate_half(q, k, cos, sin)
    interleaved = [rotate_interleaved(x.transpose(1, 2), sin[..., :32], cos[..., :32]).transpose(1, 2) for x in (q, k)]
    arrays = {
        "positions": positions,
        "q": q,
        "k": k,
        "half/q": half[0],
        "half/k": half[1],
        "interleaved/q": interleaved[0],
        "interleaved/k": interleaved[1],
    }
    return {f"apply/{name}": array.numpy() for name, array in arrays.items()}


def biases() -> dict[str, np.ndarray]:
    distances = torch.cat([torch.arange(-300, 1200), torch.tensor([5000, 10**6, 2**30])])
    arrays = {
        f"t5/{buckets}-{farthest}-{bidirectional}": T5Attention._relative_position_bucket(
            -distances, bidirectional, buckets, farthest
        ).to(torch.int16)
        for buckets, farthest, bidirectional in T5
    }
    slopes = {f"alibi/{heads}": build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1] for heads in HEADS}
    return {name: array.numpy() for name, array in {"distances": distances, **arrays, **slopes}.items()}


if __name__ == "__main__":
    main()
