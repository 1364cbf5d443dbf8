import jax.numpy as jnp
import numpy as np

from pallas_kernels import masks
from pallas_kernels.attention import blocks
from pallas_kernels.masks import EMPTY, FULL, PARTIAL
from tests.helpers import one_document


def test_schedule_visits_full_blocks_first():
    relation = jnp.array([[PARTIAL, EMPTY, FULL, FULL], [EMPTY] * 4, [EMPTY, PARTIAL, EMPTY, EMPTY]])
    schedule = blocks.schedule(relation)
    assert schedule.full.tolist() == [2, 0, 0] and schedule.active.tolist() == [3, 0, 1]
    assert schedule.order[0, :3].tolist() == [2, 3, 0] and schedule.order[2, 0] == 1


def test_relations_are_those_of_the_padded_blocks():
    info = blocks.pad_info(one_document(2, 10), 4)
    relation = blocks.relations(masks.Causal(), info, info, 4, 4)
    want = [[PARTIAL, EMPTY, EMPTY], [FULL, PARTIAL, EMPTY], [PARTIAL] * 3]  # the last queries hold padding
    assert np.array_equal(relation, [want] * 2)
