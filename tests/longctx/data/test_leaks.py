"""What a document is does not move the loss of another, unless the packing puts both into one group on purpose."""

import functools

import jax
import numpy as np
import pytest

from longctx import meshes
from longctx.config import AttentionConfig, MeshConfig, ModelConfig
from longctx.data import rows, tokenizers
from longctx.data.document import Document
from longctx.data.packing.api import PACKINGS
from longctx.model import functional

TOKENIZER = tokenizers.ByteTokenizer()
SEQ_LEN, ROWS = 256, 8
MODEL = ModelConfig(vocab_size=259, layers=2, d_model=16, mlp_dim=32, heads=2, kv_heads=1, head_dim=8, dtype="float32")


@functools.cache
def compiled():
    """(mesh, the loss of every token of ROWS rows, compiled once)."""
    mesh = meshes.make(MeshConfig())
    with jax.set_mesh(mesh):
        graph = functional.graph(MODEL, AttentionConfig())
        params = jax.jit(lambda: functional.init(MODEL, AttentionConfig(), jax.random.key(0)))()
    return mesh, jax.jit(lambda batch: functional.nll(graph, params, batch))


def losses(batch) -> np.ndarray:
    mesh, nll = compiled()
    with jax.set_mesh(mesh):
        return np.asarray(nll(meshes.put_batch(batch, mesh)))


@pytest.mark.parametrize("name", PACKINGS)
def test_a_document_is_blind_to_all_others(name):
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 300, 30)
    documents = [
        Document(f"{i % 3}/{i}.txt", rng.integers(97, 123, length, np.uint8).tobytes())
        for i, length in enumerate(lengths)
    ]
    table = rows.tokenize(documents, TOKENIZER)
    packing = PACKINGS[name](table, SEQ_LEN, np.random.default_rng(0))
    batch = rows.PackedRows(table, packing, TOKENIZER.pad).gather(np.arange(ROWS) % packing.rows)
    before, moved = losses(batch), 0
    for segment in range(1, 3):
        if not (changed := batch["segments"] == segment).any():
            continue
        other = np.where(changed & (batch["tokens"] < 256), (batch["tokens"] + 1) % 256, batch["tokens"])
        after = losses(batch | {"tokens": other.astype(np.int32)})
        kept = ~changed & (batch["segments"] > 0)
        np.testing.assert_array_equal(after[kept], before[kept])
        moved += (after[changed] != before[changed]).mean() > 0.5
    assert moved, "and the model does see the change"
