import numpy as np
import pytest

from longctx.data.document import Document
from longctx.data.tokenizers import ByteTokenizer


@pytest.fixture
def byte_tokenizer():
    return ByteTokenizer()


@pytest.fixture
def document():
    """document(size, seed) -> a document of random letters."""

    def make(size, seed=0):
        letters = np.random.default_rng([seed, size]).integers(97, 123, size).astype(np.uint8)
        return Document(f"{size}.txt", letters.tobytes())

    return make
