"""Documents that are kept by their scores."""

import dataclasses
import json

import pytest

from longctx.config import Config, DataConfig, SourceConfig, StageConfig
from longctx.data import curriculum, pipeline, texts, tokenizers
from longctx.errors import UserError

TOKENIZER = tokenizers.ByteTokenizer()


@pytest.fixture
def config(tmp_path):
    """Forty documents of ten letters; the scores of all but two, which fall with their numbers."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": chr(65 + i) * 10}) + "\n" for i in range(40)))
    config = DataConfig(path=str(tmp_path / "a.jsonl"), holdout=0.2, scores=str(tmp_path / "scores.jsonl"), keep=0.5)
    names = [document.name for document in texts.load(config).train]
    lines = [{"name": name, "score": -float(i)} for i, name in enumerate(names[2:])]
    lines += [{"name": names[0], "score": None}]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return config


def kept(config) -> list[str]:
    return [document.name for document in texts.tokenize(texts.load(config), config, TOKENIZER).documents]


def test_the_best_are_kept_by_their_tokens(config):
    everything = [document.name for document in texts.load(config).train]
    assert kept(config) == everything[2 : 2 + -(-len(everything) // 2)]
    text = texts.tokenize(texts.load(config), config, TOKENIZER)
    lost = len(everything) - len(text.documents)
    assert f"keep=0.5 of {config.scores!r}: {lost} documents of {lost * 11} tokens" in text.notes[0]
    most = dataclasses.replace(config, keep=0.999)
    assert kept(most) == everything, "those without a score come last, in their order"
    assert kept(dataclasses.replace(config, keep=1.0)) == everything
    assert kept(dataclasses.replace(config, keep=0.01)) == everything[2:3]


def test_sources_of_a_mixture_have_their_own(config):
    one = SourceConfig("one", config.path, scores=config.scores, keep=0.5)
    mixed = DataConfig(mix=(one, SourceConfig("two", config.path)), holdout=0.2)
    found = texts.tokenize(texts.load(mixed), mixed, TOKENIZER).of
    assert len(found["one"].documents) < len(found["two"].documents)


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"keep": 0.0}, "data.keep=0.0 must be above 0 and at most 1"),
        ({"keep": 1.5}, "data.keep=1.5 must be above 0"),
        ({"scores": ""}, "data.keep=0.5 has no effect: data.scores is empty"),
        ({"keep": 1.0}, "data.scores='.*' has no effect: data.keep=1 keeps all documents; 0.5 keeps the better half"),
    ],
)
def test_settings_that_cannot_be(config, fields, reason):
    stages = curriculum.plan(Config(batch_tokens=64, stages=(StageConfig(seq_len=64, steps=1),)))
    with pytest.raises(UserError, match=reason):
        pipeline.check(dataclasses.replace(config, **fields), stages, TOKENIZER)


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "scores.jsonl' cannot be read: No such file"),
        ('{"name": "a"}\n', "line 1 of .* is not an object with a name and a score"),
        ('{"name": "a", "score": 1}\nno\n', "line 2 of"),
        ('{"name": "other", "score": 1}\n', "has no score of a document of .*: its first name is 'other'"),
    ],
)
def test_files_that_cannot_be(config, tmp_path, content, reason):
    (tmp_path / "scores.jsonl").unlink()
    if content:
        (tmp_path / "scores.jsonl").write_text(content)
    with pytest.raises(UserError, match=reason):
        kept(config)
