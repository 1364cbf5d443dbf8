"""Folders that are exported, as transformers loads them: token ids, logits, what ends a text."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.settings.extras import missing
from longctx import hf, meshes
from longctx.config import AttentionConfig, DataConfig, MeshConfig, ModelConfig, RopeConfig
from longctx.data.tokenizers import ByteTokenizer
from longctx.model import functional

MODEL = ModelConfig(
    layers=2,
    d_model=32,
    mlp_dim=64,
    heads=4,
    kv_heads=2,
    head_dim=8,
    qk_norm="rms",
    dtype="float32",
    rope=RopeConfig(theta=5e4, scaling="yarn", factor=4.0, original_length=32),
)
TEXTS = ("def f(x):\n    return x", "na\u00efve \u65e5\u672c <eos>\r\n", " 2  spaces")
THEIRS = """
import json, sys, torch, transformers
folder, texts = sys.argv[1], json.loads(sys.argv[2])
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
ids = [tokenizer(text).input_ids for text in texts]
with torch.no_grad():
    logits = [model(torch.tensor([row])).logits[0].tolist() for row in ids]
ends = model.generation_config.bos_token_id, model.generation_config.eos_token_id, model.generation_config.pad_token_id
print(json.dumps([ids, logits, [tokenizer.decode(row, skip_special_tokens=True) for row in ids], ends,
                  tokenizer.model_max_length, tokenizer.pad_token_id]))
"""


@pytest.mark.slow
def test_a_model_of_bytes_is_the_same_there(tmp_path):
    if lacking := missing("torch", "transformers"):
        pytest.skip(lacking)
    with jax.set_mesh(meshes.make(MeshConfig())):
        params = jax.jit(lambda: functional.init(MODEL, AttentionConfig(), jax.random.key(0)))()
        hf.save({"params": params}, tmp_path, config=MODEL, longest=64, data=DataConfig())
    command = [sys.executable, "-c", THEIRS, str(tmp_path), json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    ids, logits, back, ends, longest, pad = json.loads(done.stdout)
    ours, tokenizer = hf.load(tmp_path), ByteTokenizer()
    assert ids == [tokenizer.encode_prompt(said.encode(), 264).tolist() for said in TEXTS] and back == list(TEXTS)
    for row, theirs in zip(ids, logits, strict=True):
        want = np.array(theirs)
        np.testing.assert_allclose(ours(np.array([row]))[0], want, atol=1e-5 * np.abs(want).max())
    assert ends == [256, 257, 258] and pad == 258 and longest == 128
