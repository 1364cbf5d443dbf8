"""Texts that share a row with their beginning are predicted like rows of their own."""

import dataclasses

import numpy as np
import pytest

from longctx import meshes, training
from longctx.config import AttentionConfig, Config, LayerConfig, MeshConfig, ModelConfig, RopeConfig
from longctx.evals import batches, branches
from longctx.evals.batches import Piece, Prediction
from longctx.evals.predictor import predictor
from tests.helpers import nightly, slow

MODEL = ModelConfig(vocab_size=32, layers=1, d_model=16, mlp_dim=32, heads=2, kv_heads=1, head_dim=8, dtype="float32")
LENGTH = 48


def texts(*sizes, seed=0, asked=3):
    """Pieces of one context of 30 tokens and another rest each."""
    rng = np.random.default_rng(seed)
    ids = lambda n: rng.integers(0, 32, n).astype(np.int32)
    context = ids(30)
    made = [np.concatenate([context, ids(size + 1)]) for size in sizes]
    return [Piece(text[:-1], text[1:], np.arange(-min(asked, size), 0)) for text, size in zip(made, sizes, strict=True)]


@pytest.mark.parametrize(
    "position, mask, shards, strategy, layout",
    [
        ("rope", "causal & (window(9) | sinks(2))", 4, "ring", "contiguous"),
        *slow(("dca(16, 4)", "causal", 1, "ring", "zigzag"), ("rope", "causal", 2, "dispatch", "zigzag")),
        *nightly(
            ("alibi", "causal", 1, "ring", "zigzag"),
            ("self_extend(3, 8)", "causal & window(20)", 4, "ring", "striped(4)"),
            ("rope", "causal & window(9)", 4, "all_gather", "contiguous"),
        ),
    ],
)
def test_predictions_are_those_of_rows_of_their_own(position, mask, shards, strategy, layout):
    """Also under a scaling that depends on the length, and in layers of two kinds."""
    kinds = (LayerConfig(mask=mask), LayerConfig())
    rope = RopeConfig(500.0, "dynamic", factor=2.0, original_length=32)
    model = dataclasses.replace(MODEL, layers=2, position=position, pattern=kinds, rope=rope)
    mesh_config = MeshConfig(context=shards)
    config = Config(model=model, mesh=mesh_config, attention=AttentionConfig(strategy=strategy, layout=layout))
    mesh = meshes.make(mesh_config)
    reader = predictor(config, mesh, training.init_state(config, mesh)["params"], model.rope)
    pieces = [*texts(6, 1, 3), *texts(7, 5, seed=1)]
    calls = []
    counting = dataclasses.replace(reader, branched=lambda *args: calls.append(args) or reader.branched(*args))
    found = branches.score(counting, pieces, LENGTH, 0)
    alone = batches.score(reader, [[piece] for piece in pieces], LENGTH, 0)
    assert [batch["tokens"].shape for batch, _ in calls] == [(2, 42)]
    for got, (want,), piece in zip(found, alone, pieces, strict=True):
        np.testing.assert_allclose(got.nll[piece.asked], want.nll[piece.asked], atol=2e-5)
        np.testing.assert_array_equal(got.top[piece.asked], want.top[piece.asked])


def test_what_looks_ahead_is_read_row_by_row():
    config, mesh = Config(model=dataclasses.replace(MODEL, mask="prefix_lm(8) | causal")), meshes.make(MeshConfig())
    assert predictor(config, mesh, training.init_state(config, mesh)["params"], MODEL.rope).branched is None


def test_groups():
    """Neighbours share a row as long as half of each is shared, and the row is not much longer than one text."""
    first, other = texts(6, 6, 6), texts(6, seed=1)
    sizes = lambda pieces, length=LENGTH: [len(group) for group in branches.grouped(pieces, length)]
    assert sizes([*first, *other, first[0]]) == [3, 1, 1]
    assert sizes(texts(*[6] * 9)) == [5, 4]  # 30 + 5 * 6 = 60 = 1.25 * 48
    assert sizes(texts(40, 40)) == [1, 1] and sizes(texts(*[1] * 80), 512) == [63, 17]
    assert [branches.shared(texts(6, 6, asked=n)) for n in (3, 6)] == [30, 30]
    everything = texts(6, 6)[0]._replace(asked=None)
    assert branches.shared([everything]) == 0 and sizes([everything, everything]) == [1, 1]
    early = texts(6)[0]._replace(asked=np.array([10, -1]))
    assert branches.shared([early, early]) == 10


def test_a_plain_function_reads_rows_alone():
    """Each text is a row of its own, and predictions keep their places."""
    pieces = texts(6, 3)

    def read(batch):
        assert batch["tokens"].shape == (2, LENGTH) and batch["segments"].max() == 1
        return Prediction(batch["targets"].astype(float), batch["weights"] > 0)

    for got, piece in zip(branches.score(read, pieces, LENGTH, 0), pieces, strict=True):
        np.testing.assert_array_equal(got.nll, piece.targets)
        assert got.top.sum() == len(piece.asked)
