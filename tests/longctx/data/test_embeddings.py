"""Embeddings of one's own, by which data.packing tells what is alike."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx.config import Config, DataConfig, StageConfig
from longctx.data import curriculum, pipeline, texts, tokenizers
from longctx.data.packing import api, similarity
from longctx.data.packing.embeddings import Embeddings
from longctx.errors import UserError

TOKENIZER = tokenizers.ByteTokenizer()


@pytest.fixture
def config(tmp_path) -> DataConfig:
    """Forty documents that have nothing to do with one another."""
    rng = np.random.default_rng(0)
    (tmp_path / "text").mkdir()
    for i in range(40):
        (tmp_path / "text" / f"{i:02}.txt").write_bytes(rng.integers(97, 123, 60, np.uint8).tobytes())
    return DataConfig(path=str(tmp_path / "text"), holdout=0.2)


def tokenized(config: DataConfig) -> texts.Texts:
    return texts.tokenize(texts.load(config), config, TOKENIZER)


def with_file(config: DataConfig, array: np.ndarray, tmp_path, name="embeddings.npy") -> DataConfig:
    np.save(tmp_path / name, array)
    return dataclasses.replace(config, packing=f"in_context({tmp_path / name})")


def on_a_ring(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(the place of each document on an arc, vectors of which those of neighbours are most alike)."""
    place = np.random.default_rng(seed).permutation(count)
    angle = place * np.pi / count
    return place, np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_documents_follow_by_their_embeddings(config, tmp_path):
    count = len(texts.load(config).train)
    place, vectors = on_a_ring(count)
    text = tokenized(with_file(config, 7 * vectors, tmp_path)).of["text"]
    assert text.packing == "in_context"
    packing = api.PACKINGS["in_context"](text.table, 256, np.random.default_rng(0))
    order = place[packing.document[packing.start == 0]]
    assert sorted(order) == list(range(count)) and (np.abs(np.diff(order)) <= 2).mean() > 0.8
    bare = dataclasses.replace(text.table, embeddings=None)
    assert text.table.fingerprint != bare.fingerprint
    other = api.PACKINGS["in_context"](bare, 256, np.random.default_rng(0))
    assert (np.abs(np.diff(place[other.document[other.start == 0]])) <= 2).mean() < 0.5


def test_rows_stay_with_their_documents_where_some_are_left_out(config, tmp_path):
    for i in (3, 17, 30):
        (tmp_path / "text" / f"{i:02}.txt").write_bytes(b"short")
    count = len(texts.load(config).train)
    vectors = np.random.default_rng(0).standard_normal((count, 5)).astype(np.float32)
    config = with_file(dataclasses.replace(config, shortest=10), vectors, tmp_path)
    table = tokenized(config).of["text"].table
    assert table.embeddings is not None and len(table.embeddings) == len(table.inputs) < count
    train = {document.name: i for i, document in enumerate(texts.load(config).train)}
    want = Embeddings("", vectors).features(np.array([train[name] for name in table.names]))
    np.testing.assert_array_equal(table.embeddings.features(np.arange(len(table.inputs))), want)
    (stage,) = curriculum.plan(Config(batch_tokens=256, stages=(StageConfig(seq_len=128, steps=1),)))
    assert pipeline.stage_rows(tokenized(config), TOKENIZER, stage, config).left_out == 0


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=6))
def test_features_are_whole_numbers_of_one_length(vectors):
    array = np.array(vectors)
    found = Embeddings("", array).features(np.arange(len(array)))
    np.testing.assert_array_equal(found, np.rint(found))
    length, given_length = np.linalg.norm(found, axis=1), np.linalg.norm(array, axis=1)
    assert (np.abs(length - similarity.SCALE)[given_length > 0] <= 1).all() and (length[given_length == 0] == 0).all()


def test_files_that_are_refused(config, tmp_path):
    count = len(texts.load(config).train)
    vectors = on_a_ring(count)[1]
    with pytest.raises(UserError, match=rf"has {count - 1} rows, and there are {count} training documents; one row"):
        tokenized(with_file(config, vectors[1:], tmp_path))
    vectors[4, 1] = np.nan
    found = tokenized(with_file(config, vectors, tmp_path)).of["text"].table
    with pytest.raises(UserError, match=r"embeddings.npy\)': row 4 \(from 0\) has a number that is not finite"):
        api.PACKINGS["in_context"](found, 64, np.random.default_rng(0))
    for array, said in (
        (np.zeros((3, 2), int), r"holds int64 \[3, 2\]; floats in two"),
        (np.zeros(3), r"float64 \[3\]"),
    ):
        with pytest.raises(UserError, match=said):
            api.parse(with_file(config, array, tmp_path).packing)
    (tmp_path / "no.npy").write_bytes(b"no")
    for name, said in (
        (f"in_context({tmp_path / 'no.npy'})", "cannot be read as a file of NumPy's"),
        ("in_context(gone.npy)", "'gone.npy' cannot be read as a file of NumPy's .No such file"),
        ("best_fit(a.npy)", "best_fit takes no file; in_context may take embeddings"),
        ("in_contxt(a.npy)", "data.packing='in_contxt' is not known. Did you mean 'in_context'"),
        ("in_context()", "is not known"),
    ):
        with pytest.raises(UserError, match=said):
            api.parse(name)
