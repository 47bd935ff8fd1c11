"""Topics: fan-out in memory inside a process, packed notifications between processes. Best effort.

The payload of a notification is `<session> <base64>` or, for what does not fit, `<session> @<id of a row>`. What is
packed is a run of messages, each four fields (namespace, topic, headers, body) with a length before each; session 0
is `msgweb.send()` in SQL, which packs the same.
"""

import struct
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence

from apps.broker import patterns
from apps.broker.engine import Address, Delivery, Message, MessageId, Subscription
from apps.broker.headers import decode_headers
from apps.broker.patterns import PatternTrie
from apps.broker.postgres.callbacks import guarded
from apps.broker.postgres.packing import int4
from apps.broker.postgres.statistics import Counts

PACKED_LIMIT = 5900  # bytes: base64 makes 7,868 of them, and a notification holds 7,999


UNCOUNTED_LIMIT = 10_000  # topics of which deliveries are counted that have no id here yet


class Topics:
    """The local subscriptions, by topic or pattern of topics."""

    def __init__(self) -> None:
        self._exact: dict[Address, list[Subscription]] = {}
        self._patterns: dict[str, PatternTrie[Subscription]] = {}  # by namespace
        self._every: set[Subscription] = set()
        self._delivered: dict[Address, tuple[int, int]] = {}  # messages and bytes, what was dropped included
        self._dropped: dict[Address, tuple[int, int]] = {}

    def add(self, subscription: Subscription) -> None:
        """Begin to deliver to it.

        Raises:
            BadDestination: a pattern that is none.
        """
        address = subscription.address
        if patterns.is_pattern(address.name):
            patterns.validate(address.name)
            self._patterns.setdefault(address.namespace, PatternTrie()).add(address.name, subscription)
        else:
            self._exact.setdefault(address, []).append(subscription)
        self._every.add(subscription)

    def remove(self, subscription: Subscription) -> None:
        """Stop delivering to it."""
        address = subscription.address
        self._take_drops(subscription)
        self._every.discard(subscription)
        if patterns.is_pattern(address.name):
            trie = self._patterns[address.namespace]
            trie.remove(address.name, subscription)
            if not trie:
                del self._patterns[address.namespace]
            return
        remaining = [other for other in self._exact.get(address, ()) if other is not subscription]
        if remaining:
            self._exact[address] = remaining
        else:
            self._exact.pop(address, None)

    def counts(self) -> Iterator[tuple[Address, int]]:
        """Each topic that has subscribers of its own here, and how many."""
        for address, subscriptions in self._exact.items():
            yield address, len(subscriptions)

    def uncounted(self) -> list[Address]:
        """The topics whose subscribers, those by a pattern too, were given something since `count`."""
        for subscription in self._every:
            self._take_drops(subscription)
        return list(self._delivered)

    def count(self, address: Address, counts: Counts) -> None:
        """Add what a topic's subscribers were given and dropped since the last time."""
        delivered, size = self._delivered.pop(address, (0, 0))
        dropped, dropped_size = self._dropped.pop(address, (0, 0))
        counts.delivered += max(delivered - dropped, 0)
        counts.delivered_bytes += max(size - dropped_size, 0)
        counts.dropped += dropped

    def _take_drops(self, subscription: Subscription) -> None:
        for address, (number, size) in subscription.drops.items():
            before, size_before = self._dropped.get(address, (0, 0))
            self._dropped[address] = before + number, size_before + size
        subscription.drops.clear()

    def deliver(self, message: Message) -> None:
        """Hand a message to every local subscriber. A slow one drops and counts it itself."""
        address = message.address
        subscriptions: Sequence[Subscription] = self._exact.get(address, ())
        trie = self._patterns.get(address.namespace) if self._patterns else None
        if trie is not None:
            subscriptions = [*subscriptions, *trie.lookup(address.name)]
        if not subscriptions:
            return
        passed_over = 0
        delivery = [Delivery(MessageId(0), address, message.headers, message.body, False, 1)]
        headers: dict[str, str] | None = None
        for subscription in list(subscriptions):
            if subscription.closed:
                passed_over += 1
                continue
            if subscription.selector is not None:
                if headers is None:
                    headers = decode_headers(message.headers)
                if not subscription.selector.matches(headers):
                    passed_over += 1
                    continue
            guarded(subscription.consumer.deliver, subscription, delivery)
        number = len(subscriptions) - passed_over
        if number:
            if len(self._delivered) > UNCOUNTED_LIMIT:
                self._delivered.clear()
                self._dropped.clear()
            before, size = self._delivered.get(address, (0, 0))
            size += number * (len(message.headers) + len(message.body))
            self._delivered[address] = before + number, size


def pack(message: Message) -> bytes:
    """A message as it travels."""
    fields = (message.address.namespace.encode(), message.address.name.encode(), message.headers, message.body)
    return b"".join(part for field in fields for part in (int4(len(field)), field))


def unpack(data: bytes) -> Iterator[Message]:
    """The messages of a run.

    Raises:
        ValueError: the run is damaged.
    """
    place = 0
    while place < len(data):
        fields = []
        for _ in range(4):
            try:
                (length,) = struct.unpack_from("!i", data, place)
            except struct.error as error:
                raise ValueError("a topic notification ends within a field") from error
            place += 4
            if length < 0 or place + length > len(data):
                raise ValueError("a topic notification ends within a field")
            fields.append(data[place : place + length])
            place += length
        yield Message(Address(fields[0].decode(), "topic", fields[1].decode()), fields[3], fields[2])


def payloads(session: int, packed: list[bytes]) -> Iterator[bytes]:
    """Notifications that carry the packed messages, as few as possible; none of them over PACKED_LIMIT."""
    run: list[bytes] = []
    size = 0
    prefix = b"%d " % session
    for one in packed:
        if run and size + len(one) > PACKED_LIMIT:
            yield prefix + b64encode(b"".join(run))
            run, size = [], 0
        run.append(one)
        size += len(one)
    if run:
        yield prefix + b64encode(b"".join(run))


def parse_payload(payload: str) -> tuple[int, bytes | int]:
    """The sending session, and the run or the id of the row that holds it.

    Raises:
        ValueError: somebody else notified on our channel.
    """
    session, _, content = payload.partition(" ")
    if content.startswith("@"):
        return int(session), int(content[1:])
    return int(session), b64decode(content, validate=True)
