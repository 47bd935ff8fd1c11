"""Addresses, stored headers, Postgres's binary arrays, topic notifications: values without I/O."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.broker.engine import Address, Message, parse_address
from apps.broker.headers import RESERVED, decode_headers, encode_headers
from apps.broker.postgres import packing, topics
from apps.broker.postgres.batch import Batch
from apps.broker.postgres.queues import Queue
from apps.broker.postgres.sql import QUERIES
from msgweb.errors import BadDestination, BadMessage

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.dictionaries(text.filter(lambda name: name and name not in RESERVED), text))
def test_headers_come_back_as_they_were(headers):
    assert decode_headers(encode_headers(headers)) == headers


def test_the_first_of_repeated_headers_wins():
    assert decode_headers(b"a:1\na:2\n") == {"a": "1"}


@pytest.mark.parametrize(
    "headers", [{"": "x"}, {"a": "nul\0"}, {"a": 1}, {"destination": "/queue/x"}, {"content-length": "3"}]
)
def test_headers_that_cannot_be_delivered_are_refused(headers):
    with pytest.raises(BadMessage):
        encode_headers(headers)


@pytest.mark.parametrize(
    ("destination", "kind", "name"),
    [
        ("/queue/a", "queue", "a"),
        ("/topic/a.b", "topic", "a.b"),
        ("bare", "queue", "bare"),
        ("/queue/a/b", "queue", "a/b"),
    ],
)
def test_a_destination_names_a_queue_or_a_topic(destination, kind, name):
    assert parse_address("shop.test", destination) == Address("shop.test", kind, name)


@pytest.mark.parametrize("destination", ["", "/queue/", "/exchange/x", "/queue/" + "x" * 256, "/topic/a\nb"])
def test_what_is_no_destination_is_refused(destination):
    with pytest.raises(BadDestination):
        parse_address("shop.test", destination)


def test_arrays_are_packed_as_postgres_reads_them():
    assert packing.int4_array([1, -1]).hex() == (
        "0000000100000000000000170000000200000001000000040000000100000004ffffffff"
    )
    assert packing.bytes_array(packing.BYTEA, [b"ab", b""]).hex() == (
        "000000010000000000000011000000020000000100000002616200000000"
    )
    assert packing.bool_array([]).hex() == "000000000000000000000010"


@given(st.lists(st.tuples(text, st.binary(max_size=50), st.binary(max_size=9000))))
def test_topic_messages_travel_unchanged_and_within_the_limit(messages):
    sent = [Message(Address("a.b", "topic", name), body, headers) for name, headers, body in messages]
    packed = [topics.pack(message) for message in sent]
    small = [one for one in packed if len(one) <= topics.PACKED_LIMIT]
    received = []
    for payload in topics.payloads(7, small):
        assert len(payload) < 8000
        session, content = topics.parse_payload(payload.decode())
        assert session == 7
        assert isinstance(content, bytes)
        received.extend(topics.unpack(content))
    assert received == [m for m, one in zip(sent, packed, strict=True) if len(one) <= topics.PACKED_LIMIT]


@given(st.binary(max_size=40))
def test_damaged_topic_notifications_are_refused_or_read_but_nothing_else(data):
    try:
        list(topics.unpack(data))
    except ValueError:  # UnicodeDecodeError is one
        pass


def test_every_statement_has_a_name_and_one_statement():
    named = {"fence", "enter_batch", "write_one", "insert_messages", "claim", "ack_persistent", "ack_transient"}
    assert named <= QUERIES.keys()
    assert all(";" not in statement for statement in QUERIES.values())


def test_a_batch_that_touched_thousands_of_queues_wakes_others_within_the_limit_of_a_notification():
    batch = Batch(1, 1, 1, [], payloads=[], large_payloads=[], announce=True, draw=False, low=False)
    touched = set(range(2_000_000_000, 2_000_001_950))  # ids as long as they get
    for identifier in touched:
        queue = Queue(Address("n", "queue", str(identifier)))
        queue.id = identifier
        batch.touched.add(queue)
        queue.note(2**63 - 2)
    woken = []
    for name, parameters in batch.steps({}, lambda: ([], [], [])):
        if name == "wake":
            (payload,) = parameters
            assert payload is not None
            assert len(payload) < 8000
            woken += [int(line.split(b":")[0]) for line in payload.split(b",")]
    assert set(woken) == touched
    assert len(woken) == len(touched)
