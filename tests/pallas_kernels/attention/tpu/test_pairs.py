import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import masks
from pallas_kernels.attention.tpu import pairs
from pallas_kernels.attention.tpu.pairs import LOWER
from pallas_kernels.masks import EMPTY, FULL, PARTIAL, TokenInfo
from tests.helpers import one_document, packed


def listed(block_list):
    read = pairs.outer, pairs.inner, pairs.kind, pairs.first, pairs.last
    return np.stack([read(block_list) for read in read], -1).tolist()


def test_pairs_are_walked_by_outer_block_and_an_empty_one_is_there_once():
    kinds = jnp.array(
        [
            [[PARTIAL, EMPTY, FULL], [EMPTY, EMPTY, EMPTY], [EMPTY, LOWER, EMPTY]],
            [[EMPTY, EMPTY, EMPTY], [EMPTY, EMPTY, EMPTY], [FULL, EMPTY, EMPTY]],
        ]
    )
    found, steps = pairs.pairs(kinds)
    assert steps == 4
    assert listed(found[0, :4]) == [[0, 0, PARTIAL, 1, 0], [0, 2, FULL, 0, 1], [1, 0, EMPTY, 1, 1], [2, 1, LOWER, 1, 1]]
    assert listed(found[1, :4]) == [[0, 0, EMPTY, 1, 1], [1, 0, EMPTY, 1, 1], [2, 0, FULL, 1, 1], [2, 0, EMPTY, 0, 0]]


def test_more_blocks_than_an_entry_can_count_are_refused():
    with pytest.raises(NotImplementedError, match="8193 blocks"):
        pairs.pairs(jnp.zeros((1, 1, 8193), jnp.int32))


def test_a_diagonal_pair_is_lower():
    info = one_document(1, 32)
    got = pairs.kinds(masks.Causal(), info, info, 16, 16, 4)
    assert got.tolist() == [[[LOWER, EMPTY], [FULL, LOWER]]]


@pytest.mark.parametrize("mask", ["causal", "causal & segments", "causal & window(9)", "full", "causal | prefix_lm(7)"])
def test_kinds_are_never_wrong(mask):
    mask, rows = masks.parse(mask), packed(4, 3, 64, mean=20)
    order = np.random.default_rng(0).permutation(64)
    info = TokenInfo(*(jnp.concatenate([x, x[:, order]]) for x in rows))
    see = np.asarray(masks.visible(mask, info, info)).reshape(6, 4, 16, 4, 16).swapaxes(2, 3)
    kinds = np.asarray(pairs.kinds(mask, info, info, 16, 16, 4))
    above = np.kron(~np.tri(4, dtype=bool), np.ones((4, 4), bool))
    assert not see[kinds == EMPTY].any()
    assert see[kinds == FULL].all()
    assert not (see & above)[kinds == LOWER].any()
    assert (see | ~above.T)[kinds == LOWER].all()
