import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx import balance, layouts
from longctx.errors import UserError
from longctx.ragged import ragged_arange
from pallas_kernels.masks import TokenInfo

NAMES = [*layouts.LAYOUTS, "striped(3)", "per_document(4)", "balanced(2)"]
SHARDS = [1, 2, 3, 4, 5, 6, 8]


def rows(*documents) -> tuple[np.ndarray, np.ndarray]:
    """(positions, segments) of rows of documents of the given lengths; a negative length is so much padding."""
    positions = np.stack([ragged_arange(np.abs(row)) for row in documents])
    ids = [np.where(np.array(row) > 0, np.arange(1, len(row) + 1), 0) for row in documents]
    segments = np.stack([np.repeat(i, np.abs(row)) for i, row in zip(ids, documents, strict=True)])
    return np.where(segments > 0, positions, 0), segments


def imbalance(laid_out: dict, shards: int) -> float:
    """Work of the busiest shard / the mean, of rows as `rows` gives them."""
    return balance.most(balance.work(**laid_out, shards=shards, reach=None).sum(axis=1))


@st.composite
def packed_rows(draw, unit=1):
    """Two rows as `rows` takes them, of a length that divides by `unit`, some with padding."""
    row = st.lists(st.integers(1, 60), min_size=1, max_size=12)
    first, second = draw(row), draw(row)
    width = -(-max(sum(first), sum(second)) // unit) * unit
    return [row + [sum(row) - width] * (sum(row) < width) for row in (first, second)]


@given(st.sampled_from(NAMES), st.sampled_from(SHARDS), st.data())
def test_a_layout_permutes_each_row_and_its_inverse_undoes_it(name, shards, data):
    _, segments = rows(*data.draw(packed_rows(layouts.unit(name, shards))))
    order = layouts.permutation(name, segments, shards)
    assert (np.sort(order, axis=1) == np.arange(segments.shape[1])).all()
    tokens = np.arange(segments.size * 3).reshape(*segments.shape, 3)
    there = layouts.permute(tokens, order)
    np.testing.assert_array_equal(layouts.permute(there, layouts.inverse(order)), tokens)
    by_shard = np.broadcast_to(order, segments.shape).reshape(2, shards, -1)
    assert (np.diff(by_shard, axis=2) > 0).all()  # the tokens of a shard stay in order


@pytest.mark.parametrize(
    "order, message",
    [
        ([[0, 1, 1, 2]], r"an order \[1, 4\] must hold every slot of a row once, from 0 to 3; it holds from 0 to 2"),
        ([[1, 0], [0, 2]], "from 0 to 1; it holds from 0 to 2"),
    ],
)
def test_what_is_no_permutation_has_no_inverse(order, message):
    with pytest.raises(UserError, match=message):
        layouts.inverse(np.array(order))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("contiguous", [0, 0, 0, 0, 1, 1, 1, 1]),
        ("zigzag", [0, 0, 1, 1, 1, 1, 0, 0]),
        ("striped", [0, 1, 0, 1, 0, 1, 0, 1]),
        ("striped(2)", [0, 0, 1, 1, 0, 0, 1, 1]),
        ("per_document", [0, 0, 1, 1, 0, 1, 0, 1]),
        ("per_document(2)", [0, 0, 1, 1, 0, 0, 1, 1]),
    ],
)
def test_the_shard_of_each_token(name, expected):
    order = layouts.permutation(name, np.array([[1, 1, 1, 1, 1, 2, 3, 3]] * 3), 2)
    assert (order == sorted(range(8), key=lambda token: expected[token])).all()


@pytest.mark.parametrize(
    "name, worst",
    [("contiguous", 1.75), ("zigzag", 1.0), ("striped", 1.003), ("striped(64)", 1.188), ("per_document", 1.0)],
)
def test_causal_work_of_the_busiest_shard(name, worst):
    positions, segments = rows([1024])
    moved = layouts.lay_out({"positions": positions, "segments": segments}, name, 4)
    assert imbalance(moved, 4) == pytest.approx(worst, abs=0.001)


@given(st.integers(2, 8), st.integers(1, 20), st.sampled_from([1, 3]))
def test_per_document_is_zigzag_where_a_row_is_one_document(shards, size, width):
    segments = np.ones((1, 2 * shards * width * size), int)
    orders = [layouts.permutation(name, segments, shards) for name in (f"per_document({width})", "zigzag")]
    np.testing.assert_array_equal(*orders)


@given(st.integers(2, 5), st.integers(1, 9), st.sampled_from([1, 3]))
def test_per_document_is_striped_where_documents_are_short(shards, documents, width):
    _, segments = rows([2 * shards * width - 1] * shards * width * documents)
    orders = [layouts.permutation(f"{name}({width})", segments, shards) for name in ("per_document", "striped")]
    np.testing.assert_array_equal(*orders)


@given(st.sampled_from(SHARDS[1:]), st.sampled_from([1, 3]), st.data())
def test_per_document_zigzags_every_document(shards, width, data):
    """But for its first n mod 2C*width tokens, of which no shard gets much more than another."""
    _, segments = rows(*data.draw(packed_rows(shards * width)))
    owner = np.empty(segments.shape, int)
    np.put_along_axis(
        owner,
        layouts.permutation(f"per_document({width})", segments, shards),
        np.repeat(np.arange(shards), segments.shape[1] // shards)[None],
        axis=1,
    )
    for row in range(2):
        for segment in np.unique(segments[row]):
            mine = owner[row, segments[row] == segment]
            pieces, dealt = divmod(len(mine), 2 * shards * width)
            there_and_back = [*range(shards), *reversed(range(shards))]
            assert mine[dealt:].tolist() == np.repeat(there_and_back, pieces * width).tolist()
            assert np.ptp(np.bincount(mine[:dealt], minlength=shards)) <= width


@settings(max_examples=200)
@given(st.sampled_from([2, 3, 4, 5, 8]), st.sampled_from([1, 3]), st.data())
def test_per_document_evens_out_packed_rows(shards, width, data):
    """A document adds at most (C-1) * width^2 pairs of tokens to what the busiest shard has above the mean."""
    packed = data.draw(packed_rows(shards * width))
    positions, segments = rows(*packed)
    moved = layouts.lay_out({"positions": positions, "segments": segments}, f"per_document({width})", shards)
    mean = sum(n * (n + 1) // 2 for row in packed for n in row if n > 0) / shards
    documents = sum(n > 0 for row in packed for n in row)
    above = (imbalance(moved, shards) - 1) * mean
    assert above <= documents * (shards - 1) * width**2 * (1 + 1e-9)


def test_packed_web_pages_over_eight_shards():
    lengths = np.maximum(np.random.default_rng(0).lognormal(6.6, 1.2, 60), 1).astype(int)
    positions, segments = rows([*lengths, -(48 - sum(lengths) % 48)])
    row = {"positions": positions, "segments": segments}
    work = {name: imbalance(layouts.lay_out(row, name, 8), 8) for name in NAMES}
    assert work["contiguous"] > work["zigzag"] > 1.5 > 1.001 > work["per_document"]


@pytest.mark.parametrize("name", NAMES)
def test_an_arrangement_lays_a_batch_out_and_puts_results_back(name):
    _, segments = rows([24, 17, 7], [30, -18])
    batch = {"segments": segments, "tokens": np.arange(96).reshape(2, 48)}
    arrangement = layouts.arrange(name, segments, 2)
    laid_out = arrangement.apply(batch)
    assert laid_out.keys() == batch.keys()
    for key, x in layouts.lay_out(batch, name, 2).items():
        np.testing.assert_array_equal(laid_out[key], x)
    tokens, doubled = arrangement.undo((laid_out["tokens"], 2 * laid_out["tokens"]))
    np.testing.assert_array_equal(tokens, batch["tokens"])
    np.testing.assert_array_equal(doubled, 2 * batch["tokens"])
    np.testing.assert_array_equal(arrangement.undo(laid_out["segments"]), segments)


@pytest.mark.parametrize("name", ["zigzag", "per_document"])
def test_an_arrangement_takes_tuples_and_dicts_of_arrays_of_either_kind(name):
    _, segments = rows([24, 17, 7], [30, -18])
    tokens = np.arange(96).reshape(2, 48)
    info = TokenInfo(jnp.asarray(tokens), jnp.asarray(segments))
    arrangement = layouts.arrange(name, segments, 2)
    laid_out = arrangement.apply({"info": info, "parts": (tokens, tokens[..., None])})
    assert isinstance(laid_out["info"], TokenInfo) and isinstance(laid_out["parts"][0], np.ndarray)
    for laid in (laid_out["info"].positions, laid_out["parts"][0], laid_out["parts"][1][..., 0]):
        np.testing.assert_array_equal(laid, np.take_along_axis(tokens, np.broadcast_to(arrangement.order, (2, 48)), 1))
    back = arrangement.undo(laid_out)
    np.testing.assert_array_equal(back["info"].segments, segments)
    np.testing.assert_array_equal(back["parts"][1][..., 0], tokens)


def test_lay_out_moves_every_array_alike():
    _, segments = rows([5, 7, 4], [9, -7])
    numbers = np.arange(32).reshape(2, 16)
    moved = layouts.lay_out({"a": numbers, "b": 2 * numbers, "segments": segments}, "per_document", 4)
    np.testing.assert_array_equal(2 * moved["a"], moved["b"])
    np.testing.assert_array_equal(segments.reshape(-1)[moved["a"]], moved["segments"])


@pytest.mark.parametrize(
    "name, length, near",
    [
        ("zigzag", 1001, "1000 or 1008"),
        ("striped", 1002, "1000 or 1004"),
        ("zigzag", 3, "Nearest: 8"),
        ("striped(128)", 1000, "512 or 1024"),
        ("per_document", 1001, "1000 or 1004"),
    ],
)
def test_a_length_that_does_not_divide_names_those_that_do(name, length, near):
    with pytest.raises(UserError, match=near):
        layouts.check(name, length, 4)


@pytest.mark.parametrize(
    "name, hint",
    [
        ("zig-zag", "Did you mean 'zigzag'"),
        ("striped(0)", r"striped\(256\)"),
        ("zigzag(2)", "zigzag"),
        ("striped()", "striped"),
    ],
)
def test_an_unknown_layout_names_the_known(name, hint):
    with pytest.raises(UserError, match=hint) as error:
        layouts.parse(name)
    assert "\n" not in str(error.value) and "per_document" in str(error.value)


ROW = np.ones((2, 16), np.int32)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: layouts.lay_out({"tokens": ROW}, "zigzag", 2), "the batch holds tokens, and must hold segments"),
        (
            lambda: layouts.lay_out({"segments": ROW, "tokens": ROW[:, :12]}, "zigzag", 2),
            r"segments \[2, 16\] and tokens \[2, 12\]",
        ),
        (lambda: layouts.lay_out({"segments": ROW, "tokens": ROW[:1]}, "zigzag", 2), r"tokens \[1, 16\]"),
        (lambda: layouts.lay_out({"segments": ROW[0]}, "zigzag", 2), r"segments int32\[16\] must be integers \[B, T\]"),
        (lambda: layouts.lay_out({"segments": ROW * 1.5}, "per_document", 2), "segments float64"),
        (lambda: layouts.lay_out({"segments": ROW > 0}, "zigzag", 2), "segments bool"),
        (lambda: layouts.lay_out({"segments": -ROW}, "zigzag", 2), "none below 0"),
        (lambda: layouts.lay_out({"segments": ROW}, "zigzag", -1), "shards=-1 must be a whole number from 1"),
        (lambda: layouts.lay_out({"segments": ROW}, "zigzag", 2.0), "shards=2.0"),
        (lambda: layouts.check("zigzag", 0, 2), "seq_len=0"),
        (lambda: layouts.parse(None), "attention.layout=None"),
        (lambda: layouts.permute(ROW, np.arange(12)[None]), r"array \[2, 16\] and an order \[1, 12\]"),
    ],
)
def test_what_cannot_be_laid_out(call, message):
    with pytest.raises(UserError, match=message):
        call()
