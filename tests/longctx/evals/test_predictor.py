import jax
import numpy as np
import pytest

from longctx import meshes, training
from longctx.config import AttentionConfig, Config, MeshConfig, ModelConfig, RopeConfig
from longctx.evals import batches
from longctx.evals.batches import Piece
from longctx.evals.predictor import predictor, rows_computed
from longctx.model import functional
from tests.helpers import nightly, packed, slow

MODEL = ModelConfig(vocab_size=32, layers=1, d_model=16, mlp_dim=32, heads=2, kv_heads=2, head_dim=8, dtype="float32")


@pytest.mark.parametrize(
    "mesh_config, layout",
    [
        (MeshConfig(data=2, context=2, tensor=2), "zigzag"),
        *slow((MeshConfig(context=3), "striped(4)")),
        *nightly((MeshConfig(), "zigzag"), (MeshConfig(data=2, context=4), "per_document")),
    ],
)
def test_predictions_are_those_of_the_logits_on_any_mesh(monkeypatch, mesh_config, layout):
    """Five rows of 37 tokens divide by no mesh here: rows and columns are padded, laid out, and put back.

    A chunk of 8 tokens is one of several on each shard, and those without a target that is asked for are skipped.
    """
    monkeypatch.setattr("longctx.evals.predictor.CHUNK", 8)
    where, rng = packed(1, 5, 37), np.random.default_rng(0)
    ids = lambda: rng.integers(0, 32, (5, 37)).astype(np.int32)
    batch = {
        "tokens": ids(),
        "targets": ids(),
        "positions": np.asarray(where.positions),
        "segments": np.asarray(where.segments),
        "weights": np.ones((5, 37), np.float32),
    }
    batch["weights"][1, :30] = batch["weights"][2] = batch["weights"][3, ::2] = 0
    asked = batch["weights"] != 0
    config = Config(model=MODEL, mesh=mesh_config, attention=AttentionConfig(layout=layout))
    # of a row that is longer by one token the frequencies would be others
    rope = RopeConfig(500.0, "longrope", original_length=37, short_factors=(1.0,) * 4, long_factors=(8.0,) * 4)
    one = meshes.make(MeshConfig())
    logits = all_logits(Config(model=MODEL), one, batch, rope)
    batch["targets"][0] = logits[0].argmax(-1)
    mesh = meshes.make(mesh_config)
    got = predictor(config, mesh, training.init_state(config, mesh)["params"], rope)(batch)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    np.testing.assert_allclose(got.nll, np.where(asked, nll, np.nan), atol=1e-4)
    np.testing.assert_array_equal(got.top, asked & (batch["targets"] == logits.argmax(-1)))
    assert got.top[0].all() and not got.top.all()


@pytest.mark.parametrize(
    "rows, length, worth, computed",
    [
        (1, 256, 1e3, 4),
        (1, 256, 1e2, 1),
        (5, 256, 1e2, 8),
        (40, 256, 1e2, 64),
        (64, 256, 1e2, 64),
        (1, 256, 1e9, 64),
        (40, 256, 1e9, 64),
        (1, 3000, 1, 1),
        (2, 3000, 1, 2),
        (3, 3000, 1, 5),
        (1, 99_999, 1e9, 1),
    ],
)
def test_rows_that_are_computed_are_as_many_as_the_work_or_cheaper_than_a_compilation(rows, length, worth, computed):
    assert rows_computed(rows, length, worth) == computed


def all_logits(config, mesh, batch, rope):
    params = training.init_state(config, mesh)["params"]
    with jax.set_mesh(mesh):
        graph = functional.graph(config.model, config.attention)
        logits = jax.jit(lambda params, batch: functional.logits(graph, params, batch, rope))
        return np.asarray(logits(params, meshes.put_batch(batch, mesh)), np.float64)


def test_a_model_writes_what_its_predictions_say():
    """Greedy tokens are the top choices of the rows that they make; a stop token ends them."""
    config, mesh = Config(model=MODEL), meshes.make(MeshConfig())
    model = predictor(config, mesh, training.init_state(config, mesh)["params"], MODEL.rope)
    prompts = [np.random.default_rng(n).integers(0, 32, n) for n in (9, 5, 17)]
    written = model.generate(prompts, 6, 32, ())
    for prompt, new in zip(prompts, written, strict=True):
        row = np.append(prompt, new)
        piece = Piece(row[:-1], row[1:], np.arange(-6, 0))
        assert model(batches.batch([[piece]], 32, 0)).top[0, len(prompt) - 1 : len(row) - 1].all()
    assert len(model.generate(prompts, 6, 32, (int(written[1][2]),))[1]) <= 3
    fewer = model.generate(prompts, 6, 32, (), lambda i, new: i == 1 or len(new) == 3)
    assert [row.tolist() for row in fewer] == [row[:3].tolist() for row in written], "until each has enough"
