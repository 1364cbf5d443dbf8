"""What a damaged tokenizer.json does to `tokenizers`: one line each, while loading nothing else on standard error."""

import json
import os

import pytest

from longctx.data import tokenizers
from longctx.data.rust_calls import RustCall, panics_unreported
from longctx.errors import UserError
from tests.longctx.data import tiny_tokenizers as tiny

WITHOUT_UNK = tiny.words("a", "<eos>")


def changed(folder, **fields) -> str:
    """A tokenizer.json with other fields, those of `model` beside its own."""
    path = tiny.write(folder, tiny.byte_level("<s>", "</s>"))
    content = json.loads((folder / "tokenizer.json").read_text())
    model = content["model"] | fields.pop("model", {})
    (folder / "tokenizer.json").write_text(json.dumps(content | {"model": model} | fields))
    return path


def panics(text: str) -> dict:
    """Fields of a tokenizer that gives up on one."""
    return {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": text}, "behavior": "Isolated", "invert": False}}


def message(call, *args) -> str:
    with pytest.raises(UserError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": {"continuing_subword_prefix": "####"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "////"}},
    ],
)
def test_a_panic_while_loading_is_one_line(tmp_path, capfd, fields):
    text = message(tokenizers.load, changed(tmp_path, **fields))
    assert capfd.readouterr().err == ""
    assert text.startswith(f"data.tokenizer={str(tmp_path)!r}: ") and "`tokenizers` stopped with" in text


def test_a_panic_while_encoding_is_one_line(tmp_path):
    tokenizer = tokenizers.load(changed(tmp_path, **panics("(x+x+)+y")))
    hard = b"x" * 40
    for call in (tokenizer.encode, tokenizer.encode_with_spans, lambda text: list(tokenizer.encode_batch([text], "a"))):
        assert "retry-limit" in message(call, hard)
    assert tokenizer.decode(tokenizer.encode(b"xy")) == "xy"


def test_a_failure_of_no_class_is_one_line(tmp_path):
    tokenizer = tokenizers.load(tiny.write(tmp_path, WITHOUT_UNK, tokenizer_config={"eos_token": "<eos>"}))
    assert tokenizer.encode(b"a a").tolist() == [0, 0]
    assert "Missing [UNK] token" in message(tokenizer.encode, b"a b")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, KeyError, UserError])
def test_everything_else_passes(capfd, error):
    with pytest.raises(error), RustCall("what"), panics_unreported():
        os.write(2, b"a warning\n")
        raise error("x")
    assert capfd.readouterr().err == "a warning\n"
