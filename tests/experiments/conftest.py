"""What tests of the commands share: the tiny run that they train, a tiny model of Hugging Face, and a text for it."""

import pathlib

import numpy as np
import pytest

from longctx import hf
from tests.experiments.train_helpers import Tiny
from tests.longctx.data import tiny_tokenizers
from tests.longctx.hf import tiny as models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Tiny.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """A model of 64 tokens of context, whose tokenizer has a token for each of its words."""
    model = models.write(tmp_path / "elsewhere", "llama")
    size = hf.model_config(model).vocab_size
    words = tiny_tokenizers.words("<eos>", *(f"w{i}" for i in range(size - 2)), "?")
    words.add_special_tokens(["<eos>"])
    tiny_tokenizers.write(model, words)
    return model


@pytest.fixture
def text(tmp_path) -> pathlib.Path:
    rng, texts = np.random.default_rng(0), tmp_path / "text"
    texts.mkdir()
    for i in range(40):
        (texts / f"{i}.txt").write_text(" ".join(f"w{n}" for n in rng.integers(0, 60, 90)))
    return texts
