"""Text to a store: the same as reading it into memory, whatever the number of processes and interruptions."""

import dataclasses
import gzip
import json
import os
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx import locks
from longctx.config import Config, DataConfig, StageConfig
from longctx.data import (
    curriculum,
    folders,
    pipeline,
    reading,
    rows,
    sources,
    span,
    store,
    texts,
    tokenizers,
    tokenizing,
)
from longctx.data.left_out import LeftOut
from longctx.errors import UserError
from longctx.evals.batches import long_document
from tests.longctx.data import tiny_tokenizers as tiny

UNIT = 600  # bytes


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Files of several kinds, one of which is several units."""
    monkeypatch.setattr(tokenizing, "UNIT", UNIT)
    monkeypatch.setattr(tokenizing.units, "__defaults__", (UNIT,))
    root = tmp_path / "text"
    (root / "more").mkdir(parents=True)
    lines = [json.dumps({"text": f"line {i} " + "\u00fc" * (i % 9)}) + "\n" for i in range(90)]
    lines[40:40] = ["\n", '{"text": " "}\n', "no json\n"]
    (root / "a.jsonl").write_text("".join(lines))
    (root / "more" / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[:20]).encode()))
    for i in range(30):
        (root / "more" / f"{i}.txt").write_text(f"text {i} " * (i + 1))
    (root / "more" / "chat.jsonl").write_text('{"text": "x"}\n')
    return DataConfig(path=str(root), bad="skip")


def stored(config, folder, processes=1) -> tuple[store.Store, list[tokenizing.Made]]:
    made = []
    return tokenizing.tokenize(config, folder, processes, lambda one, units: made.append(one)), made


def same(one, other) -> None:
    for side in ("ids", "starts", "inputs"):
        np.testing.assert_array_equal(getattr(one, side), getattr(other, side))
    assert list(one.names) == list(other.names)


@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_a_store_is_what_is_read_into_memory(config, tmp_path, kind):
    name = kind if kind == "bytes" else tiny.write(tmp_path / "tokenizer", tiny.byte_level("<s>", "</s>"))
    config = dataclasses.replace(config, tokenizer=name)
    tokenizer = tokenizers.of(config)
    everything = sources.load(dataclasses.replace(config, holdout=1.0)).held_out
    found, made = stored(config, tmp_path / "store")
    same(found.table, rows.tokenize(everything, tokenizer))
    assert len(made) > 8 and sum(one.documents for one in made) == len(everything)
    assert sum(one.tokens for one in made) == len(found.table.ids)
    assert not (tmp_path / "store" / tokenizing.PARTS).exists()
    in_memory, on_disk = texts.load(config), texts.load(dataclasses.replace(config, path=str(tmp_path / "store")))
    for side in ("train", "held_out"):
        one, other = getattr(in_memory, side), getattr(on_disk, side)
        assert [(d.name, d.text) for d in one] == [(d.name, d.text) for d in other] and len(one) > 5
    assert on_disk.of["text"].notes == in_memory.of["text"].notes and "1 bad document" in on_disk.notes[0]
    batches = []
    for corpora in (in_memory, on_disk):
        text = texts.tokenize(corpora, config, tokenizer)
        stage = curriculum.plan(Config(batch_tokens=256, stages=(StageConfig(seq_len=64, steps=5),)))[0]
        stream = pipeline.BatchStream(pipeline.stage_rows(text, tokenizer, stage, config), stage, prefetch=0)
        batches.append([next(stream) for _ in range(3)])
    for one, other in zip(*batches, strict=True):
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])


def test_held_out_conversations_of_a_store_keep_their_template_and_what_counts(tmp_path):
    """The loss of a held-out document of a store is that of the document that was tokenised."""
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' + m.content + '<|im_end|>' }}{% endfor %}"
    template += "{{ '<|im_start|>assistant ' if add_generation_prompt }}"
    with_turns = tiny.byte_level("<s>", "</s>", "<|im_start|>", "<|im_end|>")
    says = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    name = tiny.write(tmp_path / "tokenizer", with_turns, tokenizer_config=says)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good \u00fc day"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    config = DataConfig(path=str(tmp_path / "chat.jsonl"), tokenizer=name, records="messages", holdout=1.0)
    stored(config, tmp_path / "store")
    tokenizer = tokenizers.of(config)
    (want,), (got,) = (
        sources.load(dataclasses.replace(config, path=path)).held_out for path in (config.path, str(tmp_path / "store"))
    )
    assert got.text == b"user Hiassistant Good \xc3\xbc day"
    one, other = (long_document(tokenizer, document) for document in (want, got))
    assert one.text == other.text and one.text.startswith(b"<|im_start|>user Hi<|im_end|><|im_start|>assistant Good")
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(one.ends[[0, 3, -3, -1]], other.ends[[0, 3, -3, -1]])
    assert other.counts is not None and other.counts.sum() == len(b"Good \xc3\xbc day") + 1


def test_several_processes_and_interruptions_change_nothing(config, tmp_path):
    whole, _ = stored(config, tmp_path / "one")

    def stops(one, units):
        if not one.was_there:
            raise KeyboardInterrupt

    for done in range(3):
        told = []
        with pytest.raises(KeyboardInterrupt):
            tokenizing.tokenize(config, tmp_path / "two", 1, lambda *of, told=told: (told.append(of[0]), stops(*of)))
        assert [one.was_there for one in told] == [True] * done + [False], "what is finished stays"
        assert not store.is_store(tmp_path / "two")
    found, made = stored(config, tmp_path / "two", processes=2)
    assert sum(one.was_there for one in made) == 3
    same(found.table, whole.table)
    assert found.table.fingerprint == whole.table.fingerprint and found.notes == whole.notes


def test_a_file_that_is_new_or_has_changed_is_made_again(config, tmp_path):
    def stops(one, units):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenizing.tokenize(config, tmp_path / "store", 1, stops)
    first = pathlib.Path(config.path) / "a.jsonl"
    first.write_text(first.read_text().replace("line 0", "LINE 0"))
    os.utime(first, ns=(1, 1))
    found, made = stored(config, tmp_path / "store")
    assert not any(one.was_there for one in made)
    assert bytes(found.table.ids[1:7].tolist()) == b"LINE 0"


def test_a_file_that_grows_while_it_is_read_is_named(config, monkeypatch):
    files = folders.walk(config.path, frozenset())[0]
    grown = next(file for file in files if file.name == "more/3.txt")
    read = reading.documents_of([grown], config, True, LeftOut(), lambda: tokenizers.of(config))
    next(read)
    with open(grown.path, "a") as file:
        file.write("more")
    with pytest.raises(UserError, match=f"{grown.path}' changed while it was read, from {grown.size} bytes to"):
        next(read)


@given(st.lists(st.sampled_from([b"", b"a", b"bcd" * 5, b"\n"]), max_size=40), st.integers(1, 40), st.integers(1, 16))
def test_spans_are_the_lines_of_a_file(tmp_path_factory, words, size, piece):
    path = tmp_path_factory.mktemp("spans") / "file"
    path.write_bytes(b"".join(words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(span, "PIECE", piece)
        found = list(span.spans(str(path), size))
    whole, end = path.read_bytes(), 0
    for one in found:
        assert one.start == end < one.end
        end = one.end
        assert one.first_line == 1 + whole[: one.start].count(b"\n")
        assert one.end == len(whole) or whole[one.end - 1 : one.end] == b"\n"
    assert end == len(whole)


def test_one_document_is_cut_in_two(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefghij" * 10)
    config = DataConfig(path=str(tmp_path / "a.txt"))
    stored(config, tmp_path / "store")
    corpora = texts.load(dataclasses.replace(config, path=str(tmp_path / "store")))
    table = texts.tokenize(corpora, config, tokenizers.of(config)).of["text"].table
    assert table.inputs.tolist() == [91] and len(corpora.train) == len(corpora.held_out) == 1
    assert corpora.train[0].text + corpora.held_out[0].text == b"abcdefghij" * 10


def test_what_cannot_be_made_is_said(config, tmp_path):
    with pytest.raises(UserError, match="data.path='stdlib' is small"):
        stored(DataConfig(), tmp_path / "store")
    with pytest.raises(UserError, match=r"line 43 of .*a.jsonl.* is not JSON"):
        stored(dataclasses.replace(config, bad="stop"), tmp_path / "store")
    stored(config, tmp_path / "store")
    with pytest.raises(UserError, match="holds a store already"):
        stored(config, tmp_path / "store")
    with locks.take(tmp_path / "other", "it", "wait"), pytest.raises(UserError, match="is in use by process"):
        stored(config, tmp_path / "other")
