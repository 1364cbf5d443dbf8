"""Files saved beside a model: its tokenizer as the `tokenizers` library reads it, and its bos, eos and pad."""

import json

import pytest
import tokenizers as library
from hypothesis import given
from hypothesis import strategies as st

from longctx.config import DataConfig
from longctx.data import tokenizers
from longctx.hf import text


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    text.write(DataConfig(), folder, 4096)
    return folder


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_byte_tokenizer_gives_the_same_ids(document):
    made = text._of_bytes()
    for said in (document, f" {document}\r\n\x00<bos>  \u00e9{document}"):
        made.encode_special_tokens = True  # what split_special_tokens says to transformers
        ids = made.encode(said).ids
        assert ids == [256, *said.encode()] and made.decode(ids) == said  # a prompt begins with BOS
        assert made.encode(said, add_special_tokens=False).ids == list(said.encode())


def test_the_byte_tokenizer_as_files(of_bytes):
    ours, back = tokenizers.ByteTokenizer(), tokenizers.load(str(of_bytes))
    assert (back.vocab_size, back.bos, back.eos, back.pad) == (ours.vocab_size, ours.bos, ours.eos, ours.pad)
    settings = json.loads((of_bytes / text.SETTINGS).read_text())
    assert settings["model_max_length"] == 4096 and settings["split_special_tokens"]
    file = library.Tokenizer.from_file(str(of_bytes / text.FILE))
    ids = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    assert {f"{name}_id": file.token_to_id(settings[name]) for name in ("bos_token", "eos_token", "pad_token")} == ids
    assert json.loads((of_bytes / text.GENERATION).read_text()) == ids == text.ids(DataConfig())


@pytest.mark.parametrize("name", ["", "tokenizer.json", "mine.json"])
@pytest.mark.parametrize("described", [False, True])
def test_a_tokenizer_of_a_file(tmp_path, of_bytes, name, described):
    """Files beside the tokenizer are copied, except another model's generation_config.json; missing ones are made."""
    (source := tmp_path / "source").mkdir()
    (target := tmp_path / "target").mkdir()
    content = (of_bytes / text.FILE).read_text()
    (source / (name or text.FILE)).write_text(content)
    (source / text.GENERATION).write_text('{"temperature": 0.6}')
    if described:
        given = {"tokenizer_class": "Own", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
        (source / text.SETTINGS).write_text(json.dumps(given | {"model_max_length": 1}))
    text.write(DataConfig(tokenizer=str(source / name)), target, 512)
    settings = json.loads((target / text.SETTINGS).read_text())
    assert (target / text.FILE).read_text() == content
    assert settings["tokenizer_class"] == ("Own" if described else "PreTrainedTokenizerFast")
    assert settings["model_max_length"] == 512 and settings["eos_token"] == "<eos>"
    assert json.loads((target / text.GENERATION).read_text()) == text.ids(DataConfig())


def test_a_token_that_the_run_names_is_that_of_the_files(tmp_path, of_bytes):
    """What tokenizer_config.json says is kept, but for what the run says otherwise or it does not say."""
    (source := tmp_path / "source").mkdir()
    (source / text.FILE).write_text((of_bytes / text.FILE).read_text())
    (source / text.SETTINGS).write_text(
        json.dumps({"bos_token": None, "eos_token": "<eos>", "chat_template": "{{ x }}"})
    )
    said = lambda **data: (
        text.write(DataConfig(tokenizer=str(source), **data), tmp_path, 512)
        or json.loads((tmp_path / text.SETTINGS).read_text())
    )
    plain = {"bos_token": None, "eos_token": "<eos>", "pad_token": "<pad>", "chat_template": "{{ x }}"}
    assert said() == plain | {"model_max_length": 512}
    assert said(bos="<bos>", eos="<pad>") == plain | {
        "bos_token": "<bos>",
        "eos_token": "<pad>",
        "model_max_length": 512,
    }
    assert json.loads((tmp_path / text.GENERATION).read_text())["eos_token_id"] == 258
