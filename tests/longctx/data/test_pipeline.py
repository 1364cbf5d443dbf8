import itertools
import json

import numpy as np
import pytest

from longctx import layouts
from longctx.config import Config, DataConfig, StageConfig
from longctx.data import curriculum, mixture, pipeline, rows, texts, tokenizers, windows
from longctx.data.document import Document
from longctx.data.packing.api import PACKINGS
from longctx.errors import UserError

TOKENIZER = tokenizers.ByteTokenizer()
SEQ_LEN, BATCH = 32, 4


def documents(seed=0, count=60) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [Document(str(i), rng.integers(32, 127, rng.integers(1, 80), np.uint8).tobytes()) for i in range(count)]


def stage(index=0, seq_len=SEQ_LEN, batch=BATCH, window="none") -> curriculum.Stage:
    stages = tuple(StageConfig(seq_len=seq_len, steps=10, window=window) for _ in range(index + 1))
    return curriculum.plan(Config(batch_tokens=seq_len * batch, stages=stages))[index]


def of(documents, packing="best_fit") -> texts.Texts:
    """A run's text of one source."""
    return texts.Texts({"text": texts.Text(documents, rows.tokenize(documents, TOKENIZER), packing)})


def packed(index=0, seed=0, text_seed=0, **kwargs) -> mixture.Mixture:
    to = stage(index, **kwargs)
    return pipeline.stage_rows(of(documents(text_seed)), TOKENIZER, to, DataConfig(), seed)


class Streams:
    """Opens streams and closes them after the test."""

    def __init__(self):
        self.open = []

    def __call__(self, index=0, seed=0, batch=BATCH, prefetch=8, packing=None, window="none", **kwargs):
        of = stage(index, batch=batch, window=window)
        self.open.append(pipeline.BatchStream(packing or packed(), of, seed, prefetch=prefetch, **kwargs))
        return self.open[-1]


@pytest.fixture
def streams():
    made = Streams()
    yield made
    for stream in made.open:
        stream.close()


def take(stream, count) -> list[pipeline.Batch]:
    return [next(stream) for _ in range(count)]


def assert_same(got, expected):
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_ranks_finish_together_under_a_window(streams):
    """At each step rows are dealt by the work of the documents that the window of that step leaves: a row of one long
    document, which takes most of all, takes less than others once it is cut."""
    ranks, batch = 4, 16
    rows_of, fed = packed(batch=batch), stage(batch=batch, window="linear(2, 1.0)")
    arrange = pipeline.dealt(rows_of, layouts.CAUSAL, ranks)
    dealt = streams(packing=rows_of, batch=batch, window=fed.window, arrange=arrange)
    differ = 0
    for step, made in enumerate(take(dealt, fed.steps)):
        work = np.where(made["segments"] > 0, made["positions"] + 1, 0).sum(axis=1)
        assert np.ptp(work.reshape(ranks, -1).sum(axis=1)) <= work.max()
        numbers, window = len(rows_of) - batch + np.arange(batch), int(windows.table(fed)[step])
        differ += (arrange(numbers, window) != arrange(numbers, None)).any()
    assert differ >= fed.steps // 2


def keys(batches) -> list[bytes]:
    """Every row as bytes."""
    return [row.tobytes() for batch in batches for row in batch["tokens"]]


def test_batches_have_the_shapes_and_types_of_a_step(streams):
    for batch in take(streams(), 3):
        assert {name: (array.shape, str(array.dtype)) for name, array in batch.items()} == {
            "tokens": ((BATCH, SEQ_LEN), "int32"),
            "targets": ((BATCH, SEQ_LEN), "int32"),
            "positions": ((BATCH, SEQ_LEN), "int32"),
            "segments": ((BATCH, SEQ_LEN), "int32"),
            "weights": ((BATCH, SEQ_LEN), "float32"),
        }
        inside = (batch["segments"][:, :-1] == batch["segments"][:, 1:]) & (batch["segments"][:, 1:] > 0)
        assert inside.any()
        np.testing.assert_array_equal(batch["targets"][:, :-1][inside], batch["tokens"][:, 1:][inside])


def test_an_epoch_holds_every_row_once_and_the_next_in_another_order(streams):
    packing = packed()
    stream = streams(batch=1, packing=packing)
    first, second = (keys(take(stream, len(packing))) for _ in range(2))
    everything = sorted(row.tobytes() for row in packing.gather(np.arange(len(packing)))["tokens"])
    assert sorted(first) == sorted(second) == everything
    assert first != second and first != everything


@pytest.mark.parametrize("name", PACKINGS)
def test_rows_of_every_packing_are_pieces_of_documents(name):
    """Positions restart with each segment, every target is the token that follows in the document."""
    text = of(documents(), name)
    table = text.of["text"].table
    made = pipeline.stage_rows(text, TOKENIZER, stage(), DataConfig(), seed=3)
    packing, batch = made.sources[0].packing, made.gather(np.arange(len(made)))
    for row, (first, end) in enumerate(itertools.pairwise(packing.row_start.tolist())):
        for piece in range(first, end):
            at = slice(packing.column[piece], packing.column[piece] + packing.length[piece])
            begin = table.starts[packing.document[piece]] + packing.start[piece]
            ids = table.ids[begin : begin + packing.length[piece] + 1].tolist()
            assert [*batch["tokens"][row, at].tolist(), int(batch["targets"][row, at][-1])] == ids
            assert batch["targets"][row, at].tolist() == ids[1:]
        segments, positions = batch["segments"][row], batch["positions"][row]
        groups = packing.group[first:end]
        assert segments.max() == len(set(groups.tolist()))
        for segment in range(1, segments.max() + 1):
            assert positions[segments == segment].tolist() == list(range((segments == segment).sum()))
    assert batch["weights"].sum() + made.left_out == table.inputs.sum()
    assert made.waste == pytest.approx((batch["segments"] == 0).mean())


def test_a_packing_that_is_unknown_or_leaves_nothing():
    stages = (stage(),)
    with pytest.raises(UserError, match="data.packing='bestfit' is not known. Did you mean 'best_fit'"):
        pipeline.check(DataConfig(packing="bestfit"), stages, TOKENIZER)
    short = [Document("a", b"short")]
    with pytest.raises(UserError, match="leaves out all 6 tokens of the text.*'best_fit' takes all"):
        pipeline.stage_rows(of(short, "decomposition"), TOKENIZER, stage(seq_len=512), DataConfig())


def test_more_rows_in_a_batch_than_in_the_text(streams):
    text = [Document("a", b"short")]
    packing = pipeline.stage_rows(of(text), TOKENIZER, stage(), DataConfig())
    assert len(packing) == 1
    assert len(set(keys(take(streams(packing=packing), 3)))) == 1


@pytest.mark.parametrize("cut", [0, 3, 9])
def test_windows_grow_with_the_steps_whoever_reads_and_wherever_it_restarts(streams, cut):
    window = "linear(4, 0.8)"
    whole, plain = take(streams(window=window), 12), take(streams(), 12)
    longest = [int(batch["positions"].max()) + 1 for batch in whole]
    assert longest[:3] == [4, 7, 11] and longest == sorted(longest)
    assert_same(whole[8:], plain[8:])
    for name in ("tokens", "targets", "weights"):
        np.testing.assert_array_equal(whole[1][name], plain[1][name])
    before = streams(window=window, process_index=1, process_count=2)
    take(before, cut)
    after = streams(window=window, process_index=3, process_count=4)
    after.set_state(json.loads(json.dumps(before.get_state())))
    assert_same(take(after, 12 - cut), [{name: x[3:] for name, x in batch.items()} for batch in whole[cut:]])


@pytest.mark.parametrize("prefetch", [0, 1, 8])
@pytest.mark.parametrize("cut", [0, 1, 5, 17, 40])
def test_resume_is_exact_at_any_cut(streams, prefetch, cut):
    whole = take(streams(prefetch=8), 45)
    stream = streams(prefetch=prefetch)
    for _ in range(cut):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    resumed = streams(prefetch=prefetch)
    take(resumed, 2)  # a stream in use continues there as well as a fresh one
    resumed.set_state(state)
    assert resumed.get_state() == state
    assert_same(take(resumed, 45 - cut), whole[cut:])
    assert_same(take(stream, 45 - cut), whole[cut:])


@pytest.mark.parametrize("count", [2, 4])
def test_the_process_count_does_not_change_the_global_batches(streams, count):
    whole = take(streams(), 30)
    parts = [take(streams(process_index=p, process_count=count), 30) for p in range(count)]
    together = [
        {name: np.concatenate([batch[name] for batch in step]) for name in step[0]} for step in zip(*parts, strict=True)
    ]
    assert_same(together, whole)


def test_resume_with_another_process_count(streams):
    whole = take(streams(), 20)
    before = streams(process_index=1, process_count=2)
    take(before, 7)
    after = streams(process_index=3, process_count=4)
    after.set_state(before.get_state())
    assert_same(take(after, 13), [{name: array[3:] for name, array in batch.items()} for batch in whole[7:]])


def test_rows_that_processes_cannot_share():
    with pytest.raises(ValueError, match="Process 0 of 3 has no even part of 4 rows"):
        pipeline.BatchStream(packed(), stage(), process_count=3)
    with pytest.raises(ValueError, match="Process 2 of 2"):
        pipeline.BatchStream(packed(), stage(), process_index=2, process_count=2)


def test_seed_and_stage_choose_the_order_and_nothing_else_does(streams):
    packing = packed()
    orders = [
        keys(take(streams(index, seed, packing=packing), 10)) for index, seed in ((0, 0), (0, 1), (1, 0), (0, -1))
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert keys(take(streams(0, 0, prefetch=0), 10)) == orders[0]


def test_transform_sees_every_batch(streams):
    order = np.random.default_rng(0).permutation(SEQ_LEN)
    plain, permuted = streams(), streams(transform=lambda batch: {k: v[:, order] for k, v in batch.items()})
    assert_same(take(permuted, 5), [{k: v[:, order] for k, v in batch.items()} for batch in take(plain, 5)])


@pytest.mark.parametrize("layout", [*layouts.LAYOUTS, "striped(2)"])
def test_a_layout_moves_tokens_within_their_rows_and_changes_none(streams, layout):
    laid_out = take(streams(transform=lambda batch: layouts.lay_out(batch, layout, 4)), 5)
    tokens = lambda row: sorted(zip(*row, strict=True))  # (token, target, weight, position, segment)
    for moved, plain in zip(laid_out, take(streams(), 5), strict=True):
        for row in range(BATCH):
            assert tokens(x[row] for x in moved.values()) == tokens(x[row] for x in plain.values())


def test_a_state_of_another_stage_or_text_is_refused(streams):
    state = streams().get_state()
    with pytest.raises(ValueError, match="state of stage 0"):
        streams(1).set_state(state)
    with pytest.raises(UserError, match="data.path.*--workdir") as error:
        streams(packing=packed(text_seed=1)).set_state(state)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def mixed():
    """Rows of 1024 tokens by seed: text, a quarter of passkey and an eighth of copying."""
    text = of([Document(str(i), b"x = 1\n" * 2000) for i in range(40)])
    config = DataConfig(generated=("passkey(0.25)", "copying(0.125)"))
    return lambda seed=3, index=0: pipeline.stage_rows(text, TOKENIZER, stage(index, seq_len=1024), config, seed)


def test_generated_documents_are_their_share_of_the_tokens(mixed):
    text, passkeys, copies = (source.gather(np.arange(len(source)))["weights"].sum() for source in mixed().sources)
    total = text + passkeys + copies
    assert passkeys / total == pytest.approx(0.25, abs=0.005) and copies / total == pytest.approx(0.125, abs=0.005)


def test_generated_documents_are_whole(mixed):
    """Each passkey document states its number, and each segment of its rows is one document."""
    passkeys = mixed().sources[1]
    batch = passkeys.gather(np.arange(len(passkeys)))
    needle = np.frombuffer(b"Remember it.", np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(batch["tokens"], len(needle), axis=1)
    assert (windows == needle).all(-1).sum() == batch["segments"].max(axis=1).sum() > 50


def test_a_row_of_a_mixture_is_one_of_its_sources(mixed):
    together = mixed()
    first, second, _ = map(len, together.sources)
    numbers = np.array([first + second + 1, 0, first, first - 1, first + second - 1, 0])
    whole, parts = together.gather(numbers), [source.gather(np.arange(len(source))) for source in together.sources]
    np.testing.assert_array_equal(whole.pop("sources"), np.eye(3, dtype=bool)[[2, 0, 1, 0, 1, 0]])
    for i, (source, row) in enumerate([(2, 1), (0, 0), (1, 0), (0, first - 1), (1, second - 1), (0, 0)]):
        for name, array in whole.items():
            np.testing.assert_array_equal(array[i], parts[source][name][row])
    work = np.where(whole["segments"] > 0, whole["positions"] + 1, 0).sum(axis=1)
    np.testing.assert_array_equal(together.work(((None, 1),), numbers), work)
    cut = windows.cut(whole, 100)
    np.testing.assert_array_equal(
        together.work(((None, 1),), numbers, 100), np.where(cut["segments"] > 0, cut["positions"] + 1, 0).sum(axis=1)
    )
    assert 0 <= together.waste < 0.02


def test_answers_alone_count_in_what_is_generated_and_all_of_the_text():
    text = of([Document(str(i), b"x = 1\n" * 2000) for i in range(40)])
    rows = {
        loss: pipeline.stage_rows(
            text, TOKENIZER, stage(seq_len=1024), DataConfig(generated=("passkey(0.25)",), generated_loss=loss)
        )
        for loss in ("all", "answers")
    }
    assert rows["all"].fingerprint != rows["answers"].fingerprint
    for source, (every, some) in enumerate(zip(*(rows[loss].sources for loss in rows), strict=True)):
        every, some = (one.gather(np.arange(len(one))) for one in (every, some))
        np.testing.assert_array_equal(every["tokens"], some["tokens"])
        counted = bytes(some["targets"][some["weights"] > 0].astype(np.uint16).clip(max=255).astype(np.uint8))
        if source:
            assert set(counted) <= set(b" 0123456789\xff") and some["weights"].sum() > 100
        else:
            np.testing.assert_array_equal(every["weights"], some["weights"])


def test_generated_rows_are_made_from_seed_stage_and_number(mixed):
    made = lambda **kwargs: mixed(**kwargs).sources[2].gather(np.array([1]))["tokens"]
    np.testing.assert_array_equal(made(), made())
    for other in ({"seed": 4}, {"index": 1}):
        assert (made() != made(**other)).any()
    assert (made() != mixed().sources[2].gather(np.array([0]))["tokens"]).any()
    assert mixed().fingerprint == mixed().fingerprint != mixed(seed=4).fingerprint


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"generated": ("passkey(-0.1)",)}, "[0]='passkey(-0.1)' must be passkey(share: float), all positive"),
        ({"generated": ("passkey(1.0)",)}, "data.generated[0]='passkey(1.0)' must be a share above 0 and below 1"),
        ({"generated": ("passkey(0.1)",)}, "stages[0].seq_len=32"),
        ({"generated": ("copying(1.5)",)}, "data.generated[0]='copying(1.5)'"),
        ({"generated": ("passkey(0.5)", "copying(0.5)")}, "must leave room"),
        ({"generated": ("copying(0.5)", "copying(0.1)")}, "data.generated[1]='copying(0.1)' names copying again"),
        ({"generated": ("copyin(0.5)",)}, "data.generated[0]='copyin' is not known. Did you mean 'copying'?"),
        ({"generated": ("copying",)}, "data.generated[0]='copying' must be copying(share: float)"),
        ({"generated_loss": "answer"}, "data.generated_loss='answer' is not known. Did you mean 'answers'?"),
        ({"prefetch": -1}, "data.prefetch=-1"),
        ({"prefetch": 10**9}, "data.prefetch=1000000000 must be at least 0 and at most 1,024"),
    ],
)
def test_settings_that_cannot_work(fields, reason):
    with pytest.raises(UserError) as error:
        pipeline.check(DataConfig(**fields), [stage()], TOKENIZER)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_batches_read_ahead_fit_into_memory(monkeypatch):
    """A batch of 4 x 32 tokens is five arrays of four bytes a token."""
    bytes_of = sum(array.nbytes for array in packed().gather(np.arange(BATCH)).values())
    monkeypatch.setattr(pipeline, "free_memory", lambda: 3 * bytes_of)
    pipeline.check(DataConfig(prefetch=3), [stage()], TOKENIZER)
    with pytest.raises(UserError, match="data.prefetch=4 holds .*; 3 would fit"):
        pipeline.check(DataConfig(prefetch=4), [stage()], TOKENIZER)
    monkeypatch.setattr(pipeline, "free_memory", lambda: None)
    pipeline.check(DataConfig(prefetch=4), [stage()], TOKENIZER)


def test_the_length_that_check_names_works():
    with pytest.raises(UserError) as error:
        pipeline.check(DataConfig(generated=("passkey(0.5)",)), [stage()], TOKENIZER)
    needed = int(str(error.value).split("at least ")[1].split()[0])
    long = stage(seq_len=needed)
    pipeline.check(DataConfig(generated=("passkey(0.5)",)), [long], TOKENIZER)
    half = DataConfig(generated=("passkey(0.5)",))
    assert len(pipeline.stage_rows(of(documents()), TOKENIZER, long, half)) > 0
