"""Places in ranges."""

from hypothesis import given
from hypothesis import strategies as st

from longctx.ragged import within


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=4), st.integers(0, 10))
def test_places_within_ranges(ranges, size):
    found = within(ranges, size)
    assert found.dtype == bool and len(found) == size
    for place in range(size):
        assert found[place] == any(first <= place < end for first, end in ranges)
