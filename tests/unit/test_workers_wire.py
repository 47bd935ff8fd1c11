"""The messages between supervisor and slot."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import wire

TEXT = st.text(max_size=50)
MESSAGES = st.one_of(
    st.builds(wire.RunJob, TEXT, st.integers(), TEXT, TEXT, TEXT),
    st.builds(wire.CancelJob, TEXT, st.integers()),
    st.builds(wire.Recall, st.integers()),
    st.builds(wire.Record, TEXT),
    st.builds(wire.Recorded, TEXT),
    st.just(wire.Stop()),
    st.builds(wire.Progress, TEXT, st.floats(allow_nan=False), st.integers(), st.integers(), TEXT),
    st.builds(wire.Log, TEXT, st.floats(allow_nan=False), TEXT, TEXT),
    st.builds(wire.Returned, st.lists(TEXT, max_size=3)),
    st.builds(
        wire.Ended,
        TEXT,
        TEXT,
        st.floats(allow_nan=False),
        st.none() | TEXT,
        st.none() | st.dictionaries(TEXT, TEXT, max_size=3),
        st.booleans(),
    ),
    st.builds(wire.Health, st.integers()),
)


@given(st.lists(MESSAGES, max_size=6), st.integers(min_value=1, max_value=40))
def test_messages_arrive_whole_and_in_order_however_the_bytes_are_cut(messages: list[wire.Message], cut: int) -> None:
    frames = [messages[:2], *([message] for message in messages[2:])]
    data = b"".join(wire.encode(frame) for frame in frames if frame)
    decoder = wire.Decoder()
    received = [message for start in range(0, len(data), cut) for message in decoder.feed(data[start : start + cut])]
    assert received == messages


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        b"[]",
        b"{}",
        b"1",
        b'["Stop"]',
        b'[["Nobody"]]',
        b'[["Stop", 1]]',
        b'[["Stop"], []]',
        b'[[["Stop"]]]',
        b'[["Recall", 1, 2]]',
        b"\xff",
    ],
)
def test_a_frame_that_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.Decoder().feed(struct.pack(">I", len(body)) + body)


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(wire.WireError):
        wire.Decoder().feed(struct.pack(">I", wire.FRAME_LIMIT + 1))


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(wire.WireError):
        wire.encode([wire.Log("", 0.0, "info", "x" * wire.FRAME_LIMIT)])


def test_messages_that_are_too_long_for_one_frame_go_in_several() -> None:
    messages: list[wire.Message] = [wire.Log(str(n), 0.0, "info", "x" * (wire.FRAME_LIMIT // 2)) for n in range(3)]
    assert wire.Decoder().feed(wire.encode(messages)) == messages
