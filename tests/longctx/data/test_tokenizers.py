import json

import numpy as np
import pytest

from longctx.data import tokenizers
from longctx.data.document import Document
from longctx.data.rows import tokenize
from longctx.errors import UserError
from tests.longctx.data import tiny_tokenizers as tiny

TEXT = "def f(x):\n    return x + 1  # naïve 😀\n" * 50


def train(path, special=("<s>", "</s>", "<pad>"), change=None):
    """A small byte-level BPE, saved as tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    if change:
        change(tokenizer)
    tokenizer.save(str(path))
    return str(path)


def message(call, *args) -> str:
    with pytest.raises(UserError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bytes_take_any_bytes():
    tokenizer = tokenizers.load("bytes")
    every = bytes(range(256))
    ids = tokenizer.encode(every)
    assert ids.dtype == np.int32 and ids.tolist() == list(range(256))
    assert (tokenizer.vocab_size, tokenizer.bos, tokenizer.eos, tokenizer.pad) == (259, 256, 257, 258)
    assert tokenizer.decode([256, *tokenizer.encode(TEXT.encode()), 257, 258]) == TEXT
    assert tokenizer.decode(ids[120:132]).endswith("\ufffd")


def test_file_round_trip(tmp_path):
    tokenizer = tokenizers.load(train(tmp_path / "tokenizer.json"))
    ids = tokenizer.encode(TEXT.encode())
    assert ids.dtype == np.int32 and len(ids) < len(TEXT.encode()) / 2
    assert tokenizer.decode([tokenizer.bos, *ids, tokenizer.eos]) == TEXT
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (0, 1, 2)
    assert tokenizers.load(str(tmp_path)).vocab_size == tokenizer.vocab_size == ids.max() + 1
    texts = [TEXT.encode()[:n] for n in (3, 30, 0, 25)]
    for batch, text in zip(tokenizer.encode_batch(texts, list("abcd")), texts, strict=True):
        np.testing.assert_array_equal(batch, tokenizer.encode(text))


def test_long_batches_come_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizers, "BATCH_BYTES", 10)
    tokenizer = tokenizers.load(train(tmp_path / "tokenizer.json"))
    texts = [str(i).encode() for i in range(100)]
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts, texts)] == [str(i) for i in range(100)]


def test_settings_of_the_file_do_not_reach_the_data(tmp_path):
    """Truncation, padding and a template with special tokens would silently lose or add tokens."""
    from tokenizers import processors

    def change(tokenizer):
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=64, pad_id=2, pad_token="<pad>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )

    plain = tokenizers.load(train(tmp_path / "plain.json"))
    changed = tokenizers.load(train(tmp_path / "changed.json", change=change))
    for text in (b"", TEXT.encode()):
        np.testing.assert_array_equal(changed.encode(text), plain.encode(text))


def test_special_tokens_inside_a_document_are_text(tmp_path):
    tokenizer = tokenizers.load(train(tmp_path / "tokenizer.json"))
    ids = tokenizer.encode(b"a</s>b<s>")
    assert not set(ids.tolist()) & {0, 1, 2}
    assert tokenizer.decode(ids) == "a</s>b<s>"


def test_missing_bos_and_pad_are_eos(tmp_path):
    tokenizer = tokenizers.load(train(tmp_path / "tokenizer.json", special=["x", "<|endoftext|>"]))
    assert tokenizer.bos == tokenizer.eos == tokenizer.pad == 1


def test_no_eos(tmp_path):
    text = message(tokenizers.load, train(tmp_path / "tokenizer.json", special=["<s>"]))
    assert "data.tokenizer" in text and "</s>" in text


def test_only_token_mode_names_a_file_that_is_not_utf8(tmp_path):
    documents = [Document("good.txt", b"fine"), Document("dir/latin.txt", "caf\xe9".encode("latin-1"))]
    byte_table = tokenize(documents, tokenizers.load("bytes"))
    assert byte_table.ids.tolist()[-5:] == [*b"caf\xe9", 257]
    text = message(tokenize, documents, tokenizers.load(train(tmp_path / "tokenizer.json")))
    assert "'dir/latin.txt' is not UTF-8 at byte 3 (0xe9)" in text and "data.tokenizer='bytes'" in text


def test_missing_and_broken_files(tmp_path):
    assert str(tmp_path / "none.json") in message(tokenizers.load, str(tmp_path / "none.json"))
    assert "neither 'bytes' nor a tokenizer.json" in message(tokenizers.load, "byte")
    assert "data.tokenizer=''" in message(tokenizers.load, "")
    for data in (b"", b"\xff\xfe", b"{", b"[]", b"{}", b"[" * 100_000, json.dumps({"model": {"type": "BPE"}}).encode()):
        path = tmp_path / "tokenizer.json"
        path.write_bytes(data)
        text = message(tokenizers.load, str(path))
        assert "is not a tokenizer.json" in text and str(path) in text and len(text) < 600


def test_vocabulary_larger_than_the_model():
    tokenizer = tokenizers.load("bytes")
    tokenizers.check_vocabulary(tokenizer, 259)
    text = message(tokenizers.check_vocabulary, tokenizer, 258)
    assert "model.vocab_size=258" in text and "259" in text and "264 works" in text


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = train(tmp_path / "tokenizer.json")
    monkeypatch.setattr(tokenizers.sizes, "free_memory", lambda: 20_000)
    assert "MB of memory, and 0.0 MB are free" in message(tokenizers.load, path)
    with open(path, "r+b") as file:
        file.truncate(tokenizers.LARGEST_FILE + 1)
    assert "67.1 MB; at most 67.1 MB are read (longctx.data.tokenizers.LARGEST_FILE)" in message(tokenizers.load, path)


def with_added(tokenizer, *texts):
    tokenizer.add_tokens(list(texts))
    return tokenizer


@pytest.mark.parametrize(
    "make, dropped",
    [
        (lambda: with_added(tiny.metaspace(unk=None), "z"), {"é": 1}),
        (lambda: tiny.metaspace(unk=None), {"z": 2, "é": 1}),
        (tiny.metaspace, {}),
        (tiny.byte_fallback, {}),
        (lambda: tiny.byte_level("<s>", "</s>"), {}),
        (lambda: tiny.byte_level("<s>", "</s>", alphabet="abz\u0120\u00c3"), {"é": 1}),  # a byte of é's two
    ],
)
def test_characters_that_vanish_are_counted(tmp_path, make, dropped):
    tokenizer = tokenizers.load(tiny.write(tmp_path, make()))
    texts = [b"abz z", "a é b".encode(), b"ab"]
    total = {}
    for text in texts:
        total |= tokenizer.dropped(text)
        assert tokenizer.dropped(text).keys() <= set(text.decode())
    assert total == dropped
    lines = tokenizers.losses(tokenizer, texts)
    count = sum(dropped.values())
    assert len(lines) == bool(dropped)
    assert not lines or f"drops {count} characters of {len(dropped)} of 3 texts ({repr(min(dropped))}" in lines[0]


@pytest.mark.parametrize("make", [tiny.metaspace, tiny.byte_fallback, lambda: tiny.byte_level("<s>", "</s>"), None])
def test_spans_are_the_bytes_of_each_token(tmp_path, make):
    tokenizer = tokenizers.load(tiny.write(tmp_path, make())) if make else tokenizers.load("bytes")
    text = "is é 😀 is 12".encode()
    ids, spans = tokenizer.encode_with_spans(text)
    np.testing.assert_array_equal(ids, tokenizer.encode(text))
    assert spans.shape == (len(ids), 2) and (np.diff(spans[:, 0]) >= 0).all() and spans[-1, 1] == len(text)
    digits = [i for i, (start, end) in enumerate(spans) if start < end > len(text) - 2]
    assert tokenizer.decode(ids[digits]).strip() == "12"
    assert tokenizer.encode_with_spans(b"")[1].shape == (0, 2)


def test_the_special_tokens_of_a_template_are_tokens(tmp_path):
    tokenizer = tokenizers.load(train(tmp_path / "tokenizer.json"))
    text = b"<s>def</s>x"
    plain, special = (tokenize([Document("a", text, special=one)], tokenizer).ids.tolist() for one in (False, True))
    bos, eos = tokenizer.bos, tokenizer.eos
    assert bos not in plain[1:] and plain[0] == bos
    inner = tokenizer.encode(b"def").tolist()
    assert special == [bos, *inner, eos, *tokenizer.encode(b"x").tolist(), eos], "no second start"
    asked = Document("a", text, special=True, asked=((6, 10),))
    table = tokenize([asked], tokenizer)
    assert table.ids[table.counts].tolist() == [eos]
