"""The text of an answer as its tokens come: whole characters, offsets of tokens, and where it stops."""

import numpy as np
import pytest

from experiments.serving.job import Job, Piece, Read, Wish
from experiments.serving.protocol import Refusal
from longctx.data import tokenizers

BYTES = tokenizers.load("bytes")
TEXT = "a\u00e9\U0001f600b"  # of 1, 2, 4 and 1 bytes


def answered(tokens, most=100, **wish) -> tuple[list, list[bool]]:
    """(events, whether each token was the last) of a job that gets the tokens."""
    events = []
    job = Job(Wish(np.array([256]), most, told=True, **wish), events.append, 60, BYTES, BYTES.ends)
    return events, [job.take(token, lambda: (-1.0, ())) for token in tokens if not job.over]


def test_characters_come_whole_and_tokens_with_the_text_that_they_begin():
    events, last = answered([*TEXT.encode(), BYTES.eos])
    assert [event.text for event in events] == ["a", "\u00e9", "\U0001f600", "b", ""]
    assert [[one.offset for one in event.told] for event in events] == [[0], [1, 1], [2, 2, 2, 2], [3], [4]]
    assert [event.reason for event in events] == [*4 * [None], "stop"] and last == [*8 * [False], True]


def test_a_character_that_is_never_finished_is_written_at_the_end():
    events, _ = answered([*b"ab", 0xF0, 0x9F], most=4)
    assert [event.text for event in events] == ["a", "b", "\ufffd"] and events[-1].reason == "length"
    assert len(events[-1].told) == 2


@pytest.mark.parametrize("stops, want, told", [(("b\u00e9",), "xa", 2), (("zz", "a"), "x", 1), (("xa",), "", 0)])
def test_it_stops_before_a_text_and_tells_no_token_of_it(stops, want, told):
    events, last = answered("xab\u00e9c".encode(), stops=stops)
    assert "".join(event.text for event in events) == want and events[-1].reason == "stop"
    assert sum(len(event.told) for event in events) == told and last[-1] and not any(last[:-1])


def test_what_could_begin_a_stop_is_given_when_it_does_not():
    events, _ = answered(b"xabx", most=4, stops=("abc",))
    assert [event.text for event in events] == ["x", "abx"] and events[-1].reason == "length"
    assert [one.token for one in events[1].told] == [*b"abx"]


def test_a_prompt_alone_and_an_error():
    events = []
    job = Job(Wish(np.array([97]), 0), events.append, 60, BYTES, BYTES.ends)
    assert job.end_reading(None) and events == [Read(None), Piece("", (), "length")]
    job.fail(Refusal(504, "late"))
    assert len(events) == 2  # all was said before
