"""Several sources of text: how much of each is fed, in which order, and what cannot be."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx.config import Config, DataConfig, SourceConfig, StageConfig
from longctx.data import curriculum, mix, mixture, pipeline, texts, tokenizers
from longctx.errors import UserError

TOKENIZER = tokenizers.ByteTokenizer()
LETTERS = {"code": b"c", "web": b"w", "books": b"b"}
SIZES = {"code": 4000, "web": 9000, "books": 2000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of many short documents for each source, each of one letter."""
    root = tmp_path_factory.mktemp("sources")
    for name, letter in LETTERS.items():
        lines = ['{"text": "%s"}\n' % (letter.decode() * n) for n in range(1, 2 + int((2 * SIZES[name]) ** 0.5))]
        (root / f"{name}.jsonl").write_text("".join(lines))
    return root


def config(folder, shares=(1.0, 1.0, 2.0), **fields) -> DataConfig:
    of = (SourceConfig(name, str(folder / f"{name}.jsonl"), share) for name, share in zip(LETTERS, shares, strict=True))
    return DataConfig(mix=tuple(of), **fields)


def stages(*steps: int, seq_len=64, rows=4, **fields) -> tuple[curriculum.Stage, ...]:
    some = tuple(StageConfig(seq_len=seq_len, steps=count, **fields) for count in steps)
    return curriculum.plan(Config(batch_tokens=seq_len * rows, stages=some))


def mixed(data: DataConfig, stage: curriculum.Stage, seed=0) -> mixture.Mixture:
    text = texts.tokenize(texts.load(data), data, TOKENIZER)
    return pipeline.stage_rows(text, TOKENIZER, stage, data, seed)


def test_each_source_is_fed_its_share_and_nothing_else(folder):
    (stage,) = stages(200)
    rows = mixed(config(folder, (1, 1, 2)), stage)
    assert len(rows) == pytest.approx(800, abs=2), "an epoch of the mixture is the stage"
    stream = pipeline.BatchStream(rows, stage, prefetch=0)
    fed = [next(stream) for _ in range(200)]
    for i, (letter, share) in enumerate(zip(LETTERS.values(), (0.25, 0.25, 0.5), strict=True)):
        own = np.concatenate([batch["tokens"][batch["sources"][:, i]] for batch in fed])
        assert len(own) / 800 == pytest.approx(share, abs=0.01)
        assert set(np.unique(own[own < 256])) == {letter[0]}


def test_a_source_is_read_evenly_and_in_a_new_order_each_time(folder):
    (stage,) = stages(200)
    source = mixed(config(folder, (0, 0, 1)), stage).sources[2]
    count = len(source.rows)
    numbers = source._numbers(np.arange(len(source)))
    assert np.ptp(np.bincount(numbers, minlength=count)) <= 1
    first, second = numbers[:count], numbers[count : 2 * count]
    assert sorted(first) == sorted(second) == list(range(count)) and (first != second).any()
    assert source.epochs == pytest.approx(len(source) / count)
    whole = source.rows.gather(numbers[:5])
    for name, array in source.gather(np.arange(5)).items():
        np.testing.assert_array_equal(array, whole[name])
    again, other = (mixed(config(folder, (0, 0, 1)), stage, seed).sources[2] for seed in (0, 1))
    assert source.fingerprint == again.fingerprint != other.fingerprint
    np.testing.assert_array_equal(numbers, again._numbers(np.arange(len(again))))
    assert (numbers != other._numbers(np.arange(len(other)))).any()


def test_batches_do_not_depend_on_processes_or_restarts(folder):
    (stage,) = stages(30)
    rows = mixed(config(folder), stage)
    whole = pipeline.BatchStream(rows, stage, seed=5, prefetch=0)
    batches = [next(whole) for _ in range(6)]
    for count in (1, 2, 4):
        shares = [
            pipeline.BatchStream(rows, stage, seed=5, prefetch=3, process_index=i, process_count=count)
            for i in range(count)
        ]
        for batch in batches[:2]:
            together = np.concatenate([next(share)["tokens"] for share in shares])
            np.testing.assert_array_equal(together, batch["tokens"])
        state = shares[0].get_state()
        again = pipeline.BatchStream(rows, stage, seed=5, prefetch=0, process_index=0, process_count=count)
        again.set_state(state)
        np.testing.assert_array_equal(next(again)["tokens"], batches[2]["tokens"][: 4 // count])
        for share in shares:
            share.close()


def test_a_stage_of_too_few_rows_for_its_sources_is_one_line(folder):
    (stage,) = stages(1, rows=1)
    with pytest.raises(UserError, match=r"stages\[0\]: its 1 rows are too few for 3 sources") as error:
        mixed(config(folder, (1, 1, 1)), stage)
    assert "\n" not in str(error.value)


def test_a_stage_may_have_shares_of_its_own(folder):
    first, second = stages(50, 50, mix=("code(0.25)", "books(0.75)"))
    shares = mix.shares(config(folder), first, [4000, 9000, 2000])
    np.testing.assert_allclose(shares, [0.25, 0, 0.75])
    rows = mixed(config(folder), second)
    assert [len(source) for source in rows.sources] == [50, 0, 150]
    batch = next(pipeline.BatchStream(rows, second, prefetch=0))
    assert not batch["sources"][:, 1].any()


@given(
    st.lists(st.tuples(st.floats(0.1, 5), st.integers(1, 10**6), st.floats(0, 4)), min_size=1, max_size=5),
    st.sampled_from([0.0, 1.0, 2.0]),
)
def test_shares_add_up_and_no_source_passes_its_cap(sources, temperature):
    of = tuple(SourceConfig(f"s{i}", "x", share, cap) for i, (share, _, cap) in enumerate(sources))
    tokens = np.array([size for _, size, _ in sources])
    data = DataConfig(mix=of, mix_temperature=temperature)
    _, stage = stages(10, 30, seq_len=512, rows=8)
    fed = stage.steps * stage.batch_tokens
    most = sum(np.inf if not source.cap else source.cap * n for source, n in zip(of, tokens, strict=True)) * stage.part
    if most < fed * 0.999:
        with pytest.raises(UserError, match="every source with a share is at its cap in stages"):
            mix.shares(data, stage, tokens)
    elif most > fed * 1.001:
        found = mix.shares(data, stage, tokens)
        assert found.sum() == pytest.approx(1)
        epochs = found * fed / tokens / stage.part
        caps = np.array([source.cap or np.inf for source in of])
        assert (epochs <= caps * (1 + 1e-9)).all()
        free = epochs < caps * (1 - 1e-9)
        weights = np.array([source.share for source in of])
        weights = weights * (tokens / tokens.max()) ** (1 / temperature) if temperature else weights
        if free.any():
            np.testing.assert_allclose(found[free] / found[free].sum(), weights[free] / weights[free].sum(), rtol=1e-6)


def test_without_caps_and_with_temperature_one_sources_are_read_equally_often(folder):
    (stage,) = stages(200)
    rows = mixed(config(folder, (1, 1, 1), mix_temperature=1.0), stage)
    epochs = [source.epochs for source in rows.sources]
    np.testing.assert_allclose(epochs, np.mean(epochs), rtol=0.1)


def test_documents_of_other_lengths_are_left_out_and_counted(folder):
    data = config(folder)
    limited = dataclasses.replace(data.mix[0], shortest=20, longest=40)
    data = dataclasses.replace(data, mix=(limited, *data.mix[1:]))
    corpora = texts.load(data)
    text = texts.tokenize(corpora, data, TOKENIZER)
    inputs = text.of["code"].table.inputs
    assert inputs.min() >= 20 and inputs.max() <= 40
    assert [len(d.text) + 1 for d in text.of["code"].documents] == inputs.tolist()
    everything = np.array([len(d.text) + 1 for d in corpora.of["code"].train])
    left = everything[(everything < 20) | (everything > 40)]
    (note,) = text.notes
    assert f"{len(left):,} documents of {left.sum():,} tokens" in note and "shortest=20" in note
    with pytest.raises(UserError, match="shortest=9,000 and longest=any leave out all .* documents, of 2 to"):
        texts.tokenize(
            corpora, dataclasses.replace(data, mix=(dataclasses.replace(limited, shortest=9000, longest=0),)), TOKENIZER
        )


def test_held_out_documents_say_which_source_they_are_of(folder):
    held_out = texts.load(config(folder)).held_out
    assert {document.name.split("/")[0] for document in held_out} == set(LETTERS)
    assert all(set(document.text) == set(LETTERS[document.name.split("/")[0]]) for document in held_out)


@pytest.mark.parametrize(
    "changed, stage_mix, reason",
    [
        ({"name": "a b"}, (), "data.mix[0].name='a b' must be letters, digits and _"),
        ({"name": "web"}, (), "data.mix[1].name='web' must be letters, digits and _, and no other source's name"),
        ({"path": ""}, (), "data.mix[0].path is empty; source code needs a file"),
        ({"share": -1.0}, (), "data.mix[0].share=-1.0 must be at least 0"),
        ({"share": float("nan")}, (), "data.mix[0].share=nan must be at least 0"),
        ({"packing": "best"}, (), "data.packing='best' is not known"),
        ({}, ("code(0)", "web(0)"), "data.mix: all shares are 0 in stages[0]"),
        ({}, ("cod(1)",), "stages[0].mix[0]='cod' is not known. Did you mean 'code'?"),
        ({}, ("code(-1)",), "stages[0].mix[0]='code(-1)' must be code(share: float), none below 0"),
    ],
)
def test_mixtures_that_cannot_be(folder, changed, stage_mix, reason):
    data = config(folder)
    data = dataclasses.replace(data, mix=(dataclasses.replace(data.mix[0], **changed), *data.mix[1:]))
    with pytest.raises(UserError) as error:
        pipeline.check(data, stages(5, mix=stage_mix), TOKENIZER)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_settings_of_a_mixture_without_one():
    for data, stage, field in (
        (DataConfig(mix_temperature=2.0), stages(5), "data.mix_temperature=2.0"),
        (DataConfig(), stages(5, mix=("code(1)",)), r"stages\[0\].mix=\('code\(1\)',\)"),
    ):
        with pytest.raises(UserError, match=f"{field} has no effect: data.mix is empty"):
            pipeline.check(data, stage, TOKENIZER)


def test_a_source_that_would_be_read_too_often(folder):
    data = config(folder, most_epochs=4.0)
    (stage,) = stages(2000)
    with pytest.raises(UserError, match=r"data.mix\[2\]: source books of .* tokens would be read .* times"):
        mixed(data, stage)
