"""Which tokens start and end documents and prompts, and which end a generation, by what a folder says."""

import numpy as np
import pytest
from tokenizers import AddedToken, processors

from longctx.config import DataConfig
from longctx.data import special_tokens, tokenizers
from longctx.errors import UserError
from tests.longctx.data import tiny_tokenizers as tiny

HTML = ["<pad>", "<eos>", "<bos>", "<s>", "</s>"]  # Gemma's, whose web pages have tokens for <s> and </s>
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # Qwen's
PHI = ["<s>", "</s>", "<|endoftext|>", "<|end|>"]
COHERE = ["<PAD>", "<BOS>", "<START_TEXT>", "<|STOP|>"]
GEMMA_CONFIG = {"bos_token": "<bos>", "eos_token": {"content": "<eos>", "special": True}, "pad_token": "<pad>"}


def template(tokenizer, text, *tokens):
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=text, special_tokens=[(t, tokenizer.token_to_id(t)) for t in tokens]),
        ]
    )
    return tokenizer


@pytest.mark.parametrize(
    "special, files, want",
    [
        (HTML, {"tokenizer_config": GEMMA_CONFIG}, ["<bos>", "<eos>", "<pad>"]),
        (HTML, {"special_tokens_map": GEMMA_CONFIG}, ["<bos>", "<eos>", "<pad>"]),
        (
            HTML,
            {
                "tokenizer_config": {"eos_token": "<eos>"},
                "special_tokens_map": {"eos_token": "</s>", "bos_token": "<s>"},
            },
            ["<s>", "<eos>", "<pad>"],
        ),
        (
            HTML,
            {"config": {"bos_token_id": 2, "eos_token_id": [1, 4]}, "generation_config": {"eos_token_id": 3}},
            ["<bos>", "<eos>", "<pad>"],
        ),
        (
            HTML,
            {"generation_config": {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 3}},
            ["<bos>", "<eos>", "<s>"],
        ),
        (HTML, {"config": {"eos_token_id": 1}}, ["<eos>", "<eos>", "<pad>"]),  # a usual spelling is not believed then
        (
            PHI,
            {"tokenizer_config": {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "[PAD]"}},
            ["<s>", "<|endoftext|>", "<|endoftext|>"],
        ),  # a PAD that is none is passed over
        (COHERE, {"tokenizer_config": {"bos_token": "<BOS>", "eos_token": "<|STOP|>"}}, ["<BOS>", "<|STOP|>", "<PAD>"]),
        (
            CHAT,
            {"tokenizer_config": {"bos_token": None, "eos_token": "<|im_end|>"}, "config": {"bos_token_id": 0}},
            ["<|im_end|>", "<|im_end|>", "<|im_end|>"],
        ),
        (CHAT[:1], {}, ["<|endoftext|>"] * 3),
        (["<s>", "</s>", "x"], {}, ["<s>", "</s>", "</s>"]),
    ],
)
def test_what_a_folder_says(tmp_path, special, files, want):
    tokenizer = tokenizers.load(tiny.write(tmp_path, tiny.byte_level(*special), **files))
    assert [special[token] for token in (tokenizer.bos, tokenizer.eos, tokenizer.pad)] == want


def test_the_template_of_a_tokenizer_is_believed_before_spellings(tmp_path):
    both = template(tiny.byte_level(*HTML), "<bos> $A <eos>", "<bos>", "<eos>")
    tokenizer = tokenizers.load(tiny.write(tmp_path / "both", both))
    assert (tokenizer.bos, tokenizer.eos) == (2, 1)
    start = template(tiny.byte_level(*HTML), "<bos> $A", "<bos>")
    tokenizer = tokenizers.load(tiny.write(tmp_path / "start", start, config={"eos_token_id": 1}))
    assert (tokenizer.bos, tokenizer.eos) == (2, 1)


@pytest.mark.parametrize(
    "special, files, parts",
    [
        (HTML, {}, ["several tokens", "EOS: </s> <eos>;", "data.eos='</s>'", "tokenizer_config.json"]),
        (["<s>", "<bos>", "</s>"], {}, ["BOS: <s> <bos>;", "data.bos='<s>'"]),
        (CHAT, {}, ["EOS: <|endoftext|> <|im_end|>;"]),
        (COHERE, {}, ["no end-of-document token", "data.eos"]),
        (HTML, {"tokenizer_config": {"eos_token": "<end>"}}, ["tokenizer_config.json: eos_token='<end>'", "data.eos"]),
        (HTML, {"config": {"eos_token_id": 1, "bos_token_id": 9999}}, ["config.json: bos_token_id=9999", "data.bos"]),
        (HTML, {"config": {"eos_token_id": "1"}}, ["config.json: eos_token_id='1'", "number"]),
        (HTML, {"config": {"eos_token_id": [1, True]}}, ["eos_token_id=[1, True]"]),
        (HTML, {"tokenizer_config": {"eos_token": 5}}, ["tokenizer_config.json: eos_token=5", "text of a token"]),
        (HTML, {"tokenizer_config": []}, ["tokenizer_config.json", "JSON object"]),
    ],
)
def test_what_cannot_be_known_is_said(tmp_path, special, files, parts):
    with pytest.raises(UserError) as error:
        tokenizers.load(tiny.write(tmp_path, tiny.byte_level(*special), **files))
    assert all(part in str(error.value) for part in parts) and "\n" not in str(error.value), error.value


def test_what_is_asked_for_has_the_word(tmp_path):
    folder = tiny.write(tmp_path, tiny.byte_level(*HTML), tokenizer_config=GEMMA_CONFIG)
    asked = tokenizers.of(DataConfig(tokenizer=folder, bos="<pad>", eos="</s>"))
    assert (asked.bos, asked.eos, asked.ends) == (0, 4, (4,))
    with pytest.raises(UserError, match="data.eos='</end>' is no token of data.tokenizer="):
        tokenizers.load(folder, eos="</end>")
    with pytest.raises(UserError, match="data.eos='</s>' are for a tokenizer.json"):
        tokenizers.load("bytes", eos="</s>")


@pytest.mark.parametrize(
    "files, want",
    [
        ({"config": {"eos_token_id": 7}, "generation_config": {"eos_token_id": [9, 7, 8]}}, (7, 8, 9)),
        ({"config": {"eos_token_id": [5, 6]}}, (5, 6)),
        ({"generation_config": {"eos_token_id": 4}}, (4,)),
        ({"config": {"eos_token_id": None}}, ()),
        ({}, ()),
    ],
)
def test_the_ends_of_a_generation_are_all_that_a_folder_says(tmp_path, files, want):
    folder = tiny.write(tmp_path, tiny.byte_level("</s>"), **files)
    assert special_tokens.ends(folder) == want and special_tokens.ends(folder, 6) == tuple(sorted({*want, 6}))
    assert tokenizers.load(folder).ends == tuple(sorted({*want, tokenizers.load(folder).eos}))


def test_only_ids_that_text_can_have_count(tmp_path):
    """Gemma 3's own layout: a special token for images behind the last row of the embedding."""
    built = tiny.byte_level("<s>", "</s>")
    rows = built.get_vocab_size()
    built.add_special_tokens(["<image>"])
    tokenizer = tokenizers.load(tiny.write(tmp_path / "special", built))
    tokenizers.check_vocabulary(tokenizer, rows)
    assert tokenizer.vocab_size == rows and tokenizer.encode(b"<image>").max() < rows
    with pytest.raises(UserError, match=f"'p' holds '<image>', token {rows} of .*; the model has only {rows}"):
        tokenizer.encode_prompt(b"see <image>", rows, "p")
    assert rows in tokenizer.encode_prompt(b"see <image>", rows + 1)
    built.add_tokens(["<plain>"])  # text is this one
    tokenizer = tokenizers.load(tiny.write(tmp_path / "plain", built))
    assert tokenizer.encode(b"<plain>").tolist() == [rows + 1]
    with pytest.raises(UserError, match=f"model.vocab_size={rows} .* pretrained model needs"):
        tokenizers.check_vocabulary(tokenizer, rows)


def test_prompts_parse_special_tokens_and_start_once(tmp_path):
    built = template(tiny.byte_level("<s>", "</s>", "<turn>"), "<s> $A </s>", "<s>", "</s>")
    built.add_special_tokens([AddedToken("<turn>", special=True)])
    tokenizer = tokenizers.load(tiny.write(tmp_path, built, tokenizer_config={"bos_token": "<s>", "eos_token": "</s>"}))
    text = tokenizer.encode(b"12").tolist()
    for prompt, want in ((b"<turn>12</s>", [0, 2, *text, 1]), (b"<s>12", [0, *text]), (b"12", [0, *text]), (b"", [0])):
        assert tokenizer.encode_prompt(prompt, 300).tolist() == want, prompt
    spelled = tokenizer.encode_prompt(b"<turn>12", 300, special=False)
    assert spelled[0] == 0 and 2 not in spelled and tokenizer.decode(spelled) == "<turn>12"
    np.testing.assert_array_equal(tokenizer.encode(b"<turn>12"), spelled[1:])  # documents are as they were
    without = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}
    tokenizer = tokenizers.load(tiny.write(tmp_path, built, tokenizer_config=without))
    assert tokenizer.encode_prompt(b"12", 300).tolist() == text and tokenizer.bos == 0
    assert tokenizer.encode_prompt(b"<s>12", 300).tolist() == [0, *text]
    tokenizer = tokenizers.load(tiny.write(tmp_path, built, tokenizer_config={"bos_token": None, "eos_token": "</s>"}))
    assert tokenizer.encode_prompt(b"12", 300).tolist() == text and tokenizer.bos == 1
    assert tokenizers.load("bytes").encode_prompt(b"a", 259).tolist() == [256, 97]
