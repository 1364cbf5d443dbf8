"""Orders of rows by the length of their documents: what each step is fed, and by whom it is read."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx.config import Config, DataConfig, RecallConfig, StageConfig
from longctx.data import curriculum, orders, pipeline, rows, texts, tokenizers
from longctx.data.document import Document
from longctx.data.generated.recall import RecallRows
from longctx.errors import UserError

TOKENIZER = tokenizers.ByteTokenizer()
SEQ_LEN, BATCH = 1024, 4


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Rows of which nothing but their longest documents is known."""

    lengths: np.ndarray

    def __len__(self):
        return len(self.lengths)

    def longest(self, rows):
        return self.lengths[rows]


def stage(order: str, steps=24, rows=BATCH, index=0) -> curriculum.Stage:
    some = tuple(StageConfig(seq_len=SEQ_LEN, steps=steps, order=order) for _ in range(index + 1))
    return curriculum.plan(Config(batch_tokens=SEQ_LEN * rows, stages=some))[index]


def fed(order: str, lengths, steps=24, seed=0, rows=BATCH) -> orders.Ordered:
    found = pipeline.ordered(Lengths(np.asarray(lengths)), stage(order, steps, rows), seed)
    assert found is not None
    return found


def of_buckets(*batches: int, shortest=256) -> list[int]:
    """The longest documents of rows that fill so many batches of each length, from the shortest on."""
    return [shortest << i for i, count in enumerate(batches) for _ in range(count * BATCH)]


def test_the_steps_of_apples_example():
    """The README of apple/ml-dataset-decomposition: 8 shards a step, 8 epochs, --train-data-mix-weights."""
    shards = np.array([3560, 5996, 7410, 6309, 5157, 4513])
    counts = orders.allotted(28795904000 / 8 / 2**23, shards)
    assert counts.tolist() == [46, 78, 97, 82, 67, 60] and counts.sum() == 430
    weights = counts * orders.grow_p2(np.arange(8, 14))
    assert weights.tolist() == [1472, 1248, 776, 328, 134, 60]


@given(st.integers(1, 400), st.lists(st.integers(1, 1000), min_size=1, max_size=8))
def test_all_steps_are_allotted(steps, sizes):
    counts = orders.allotted(steps, np.array(sizes))
    assert counts.sum() == steps and counts.min() >= 0
    assert (np.abs(counts - steps * np.array(sizes) / sum(sizes)) <= max(1, len(sizes) / 2)).all()


@pytest.mark.parametrize(
    "name, odds",
    [
        ("uniform", [1] * 6),
        ("grow_linear", [6, 5, 4, 3, 2, 1]),
        ("grow_p2", [32, 16, 8, 4, 2, 1]),
        ("grow_p100", [100**k for k in (5, 4, 3, 2, 1, 0)]),
        ("shrink_p100", [100**k for k in range(6)]),
    ],
)
def test_published_odds(name, odds):
    assert getattr(orders, name)(np.arange(8, 14)).tolist() == odds


@pytest.mark.parametrize("name", orders.ORDERS)
@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=60), st.integers(1, 40), st.integers(1, 5), st.integers(1, 6)
)
def test_each_step_has_rows_of_one_length_and_rows_are_read_evenly(name, lengths, steps, cycles, rows):
    lengths = np.array(lengths)
    found = fed(f"{name}({min(cycles, steps)})", lengths, steps, rows=rows)
    assert len(found.buckets) == steps
    numbers = np.stack([found.rows(step) for step in range(steps)])
    assert (np.floor(np.log2(lengths[numbers])) == np.log2(found.tokens)[:, None]).all()
    read = np.bincount(numbers.ravel(), minlength=len(lengths))
    for members in found.members:
        assert np.ptp(read[members]) <= 1


@pytest.mark.parametrize("name", [name for name in orders.ORDERS if name != "grow_length"])
def test_an_epoch_holds_every_row_once_and_the_next_in_another_order(name):
    lengths = of_buckets(6, 3, 12, 3)
    found = fed(f"{name}(3)", lengths, 24)
    first, second = (np.concatenate([found.rows(step) for step in range(a, a + 24)]) for a in (0, 24))
    assert sorted(first) == sorted(second) == list(range(len(lengths)))
    assert (first != second).any()
    for cycle in np.split(found.tokens, 3):
        assert np.unique_counts(cycle).counts.tolist() == [2, 1, 4, 1], "each cycle has its part of every length"


def test_short_rows_come_first_where_the_odds_grow_and_last_where_they_shrink():
    lengths = of_buckets(200, 200, 200)
    middle = {name: np.mean(np.flatnonzero(fed(name, lengths, 600).tokens == 256)) for name in orders.ORDERS}
    assert middle["uniform"] == pytest.approx(300, abs=60)
    grown = [middle[name] for name in ("uniform", "grow_linear", "grow_p2", "grow_p100")]
    assert grown == sorted(grown, reverse=True) and grown[-1] == pytest.approx(102, abs=5)
    assert middle["shrink_p100"] == pytest.approx(499, abs=5)


def test_the_odds_of_the_first_steps():
    """Of equally many rows each, Grow-P2 of three lengths begins with the shortest four times in seven."""
    first = [fed("grow_p2", of_buckets(5, 5, 5), 15, seed).tokens[0] for seed in range(700)]
    counts = [first.count(256 << i) for i in range(3)]
    np.testing.assert_allclose(np.array(counts) / 100, [4, 2, 1], atol=0.6)


def test_grow_length_gives_every_length_equally_many_steps():
    lengths = of_buckets(1, 9, 2)
    assert fed("grow_length", lengths, 9).tokens.tolist() == [256] * 3 + [512] * 3 + [1024] * 3
    assert fed("grow_length(2)", lengths, 12).tokens.tolist() == 2 * ([256] * 2 + [512] * 2 + [1024] * 2)


def of(packing: str) -> texts.Texts:
    rng = np.random.default_rng(0)
    some = [
        Document(str(i), rng.integers(32, 127, n, np.uint8).tobytes()) for i, n in enumerate(rng.integers(1, 3000, 60))
    ]
    return texts.Texts({"text": texts.Text(some, rows.tokenize(some, TOKENIZER), packing)})


@pytest.fixture(scope="module")
def packed():
    config = DataConfig(generated=("copying(0.2)",))
    return {
        name: pipeline.stage_rows(of(name), TOKENIZER, stage("shuffled"), config)
        for name in ("decomposition", "best_fit", "untie_the_knots")
    }


def batches(packed, order: str, count: int, seed=0, index=0, state=None, **kwargs):
    stream = pipeline.BatchStream(packed, stage(order, index=index), seed, **{"prefetch": 0, **kwargs})
    if state is not None:
        stream.set_state(json.loads(json.dumps(state)))
    found = [next(stream) for _ in range(count)]
    state = stream.get_state()
    stream.close()
    return found, state


def assert_same(got, expected):
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("packing", ["decomposition", "best_fit", "untie_the_knots"])
def test_batches_have_documents_of_one_length_and_one_shape(packed, packing):
    found, _ = batches(packed[packing], "grow_p2(2)", 24)
    powers = []
    for batch in found:
        assert batch["tokens"].shape == (BATCH, SEQ_LEN)
        longest = [max(np.bincount(row)[1:]) for row in batch["segments"]]
        assert len(power := {int(np.log2(tokens)) for tokens in longest}) == 1
        powers += power
    want = pipeline.ordered(packed[packing], stage("grow_p2(2)"))
    assert want is not None and [2**power for power in powers] == want.tokens.tolist()
    assert len(set(powers)) >= 3 and max(powers) == 10


@pytest.mark.parametrize("order", ["grow_p2(2)", "grow_length"])
@pytest.mark.parametrize("cut", [0, 7, 30])
def test_the_order_hangs_on_no_process_prefetch_or_restart(packed, order, cut):
    rows = packed["decomposition"]
    whole, _ = batches(rows, order, 34)
    _, state = batches(rows, order, cut, prefetch=3, process_index=1, process_count=2)
    after, _ = batches(rows, order, 34 - cut, state=state, prefetch=8, process_index=3, process_count=4)
    assert_same(after, [{name: array[3:] for name, array in batch.items()} for batch in whole[cut:]])


def test_seed_and_stage_choose_the_order(packed):
    tokens = [
        [batch["tokens"].tobytes() for batch in batches(packed["decomposition"], "uniform", 8, seed, index)[0]]
        for seed, index in ((0, 0), (0, 0), (1, 0), (0, 1))
    ]
    assert tokens[0] == tokens[1] and len({tuple(one) for one in tokens}) == 3


def test_longest_documents_of_every_kind_of_rows(packed):
    for mixture in packed.values():
        numbers = np.random.default_rng(0).permutation(len(mixture))
        segments = mixture.gather(numbers)["segments"]
        want = [max(np.bincount(row)[1:]) for row in segments]
        generated = numbers >= len(mixture.sources[0])  # whose documents may end a few tokens before what was drawn
        np.testing.assert_array_equal(mixture.longest(numbers)[~generated], np.array(want)[~generated])
        np.testing.assert_allclose(mixture.longest(numbers), want, atol=4)
    recall = RecallRows(RecallConfig(), 64, 0, count=9)
    assert recall.longest(np.arange(3)).tolist() == [64] * 3


@pytest.mark.parametrize(
    "order, words",
    [
        ("grow_p3", r"stages\[0\].order='grow_p3' is not known. Did you mean 'grow_p2'"),
        ("grow_p2(0)", r"must be grow_p2\(cycles: int\)"),
        ("shuffled(2)", "must be shuffled alone"),
        ("uniform(25)", r"has more cycles than stages\[0\] has steps \(24\)"),
    ],
)
def test_orders_that_cannot_be(order, words):
    with pytest.raises(UserError, match=words) as error:
        pipeline.check(DataConfig(), (dataclasses.replace(stage("shuffled"), order=order),), TOKENIZER)
    assert "\n" not in str(error.value)
