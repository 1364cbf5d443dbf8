"""The held-out loss: every target once, at any length and on any mesh, and compiled once a stage."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.run import held_out
from longctx import meshes, training
from longctx.config import AttentionConfig, Config, EvalConfig, MemoryConfig, MeshConfig, ModelConfig, StageConfig
from longctx.data.curriculum import plan
from longctx.data.document import Document
from longctx.data.tokenizers import ByteTokenizer
from longctx.errors import UserError
from longctx.model import functional
from tests.helpers import slow

CONFIG = Config(
    model=ModelConfig(layers=1, d_model=16, mlp_dim=32, heads=2, kv_heads=2, head_dim=8, dtype="float32"),
    stages=(StageConfig(seq_len=16, steps=1), StageConfig(seq_len=48, steps=1)),
    batch_tokens=96,
    eval=EvalConfig(documents=3, every_steps=1),
)
DOCUMENTS = [Document(str(i), bytes(range(65, 65 + size))) for i, size in enumerate((9, 60, 20, 55))]
TOKENIZER = ByteTokenizer()


@pytest.mark.parametrize("length", [5, 16, 47, 48, 100])
def test_pieces_hold_every_target_of_a_text_once(length):
    text = np.arange(100, 149, dtype=np.int32)
    cut = held_out.pieces(text, None, length, bos=1)
    np.testing.assert_array_equal(np.concatenate([piece.targets for piece in cut]), text[1:])
    for piece in cut:
        assert len(piece.inputs) == len(piece.targets) <= length and piece.inputs[0] == 1
        np.testing.assert_array_equal(piece.inputs[1:], piece.targets[:-1])
    rows = held_out.in_rows(cut, length)
    assert max(sum(len(piece.inputs) for piece in row) for row in rows) <= length
    assert sorted(piece.targets[0] for row in rows for piece in row) == [piece.targets[0] for piece in cut]


def test_cuts_are_as_long_as_the_longest_stage_and_documents_that_fill_it_come_first():
    texts = held_out.texts(DOCUMENTS, TOKENIZER, [16, 48], CONFIG)
    assert sorted(len(text) - 1 for text, _ in texts)[1:] == [48, 48] and len(texts) == 3
    again = held_out.texts(DOCUMENTS, TOKENIZER, [48, 16, 16], CONFIG)
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(texts, again, strict=True))


def test_of_a_document_with_parts_that_count_these_are_measured():
    document = Document("talk", b"q" * 90 + b"ANSWER" + b"q" * 9, asked=((5, 8), (90, 96)))
    ((text, counts),) = held_out.texts([document], TOKENIZER, [16, 48], CONFIG)
    assert TOKENIZER.decode(text[1:]) == "q" * 42 + "ANSWER"
    cut = held_out.pieces(text, counts, 16, bos=1)
    assert [TOKENIZER.decode(piece.targets[piece.asked]) for piece in cut] == ["", "", "ANSWER"]


@pytest.mark.parametrize("mesh_config", [MeshConfig(), *slow(MeshConfig(data=2, context=2))])
def test_the_loss_is_that_of_the_logits(mesh_config):
    config = dataclasses.replace(CONFIG, mesh=mesh_config, attention=AttentionConfig(layout="zigzag"))
    stages, mesh, said = plan(config), meshes.make(mesh_config), []
    params = training.init_state(config, mesh)["params"]
    measure = held_out.HeldOut(config, mesh, stages, DOCUMENTS, TOKENIZER, said.append)
    halved = jax.tree.map(lambda x: x / 2, params)
    texts = [text for text, _ in held_out.texts(DOCUMENTS, TOKENIZER, [16, 48], config)]
    for stage in stages:
        losses = measure(stage, params), measure(stage, halved), measure(stage, params)
        assert losses[0] == losses[2] != losses[1]
        np.testing.assert_allclose(losses[0], by_logits(config, texts, stage.seq_len), rtol=1e-5)
    assert said == [
        f"compiling the held-out loss of stage {i} (length {length}) ..." for i, length in ((1, 16), (2, 48))
    ]


def by_logits(config, texts, length) -> float:
    """Each piece read by itself, in float64 from the logits on, by one device."""
    one = dataclasses.replace(config, mesh=MeshConfig())
    mesh, nll = meshes.make(one.mesh), []
    params = training.init_state(one, mesh)["params"]
    with jax.set_mesh(mesh):
        graph = functional.graph(one.model, one.attention)
        logits_of = jax.jit(lambda batch: functional.logits(graph, params, batch, one.model.rope))
        for text in texts:
            for start in range(0, len(text) - 1, length):
                ids = text[start : start + length + 1].copy()
                targets, n = ids[1:], len(ids) - 1
                inputs = np.concatenate([[TOKENIZER.bos], ids[1:-1], np.zeros(length - n)]).astype(np.int32)
                batch = {
                    "tokens": inputs[None],
                    "positions": np.arange(length, dtype=np.int32)[None],
                    "segments": np.int32(np.arange(length) < n)[None],
                }
                logits = np.asarray(logits_of(meshes.put_batch(batch, mesh))[0, :n], np.float64)
                nll += list(np.log(np.exp(logits).sum(-1)) - logits[np.arange(n), targets])
    return float(np.mean(nll))


def test_parameters_in_host_memory_are_refused():
    config = dataclasses.replace(CONFIG, memory=MemoryConfig(offload=("params",)))
    with pytest.raises(UserError, match=r"eval.every_steps=1 reads.*eval.every_steps=0 measures at the end"):
        held_out.check(config)
