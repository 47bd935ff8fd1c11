"""Topics: fan-out in memory inside a process, packed notifications between processes. Best effort.

The payload of a notification is `<session> <base64>` or, for what does not fit, `<session> @<id of a row>`. What is
packed is a run of messages, each four fields (namespace, topic, headers, body) with a length before each; session 0
is `msgweb.send()` in SQL, which packs the same.
"""

import struct
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from apps.broker import patterns
from apps.broker.engine import Address, Delivery, Message, MessageId, Subscription
from apps.broker.headers import decode_headers
from apps.broker.patterns import PatternTrie
from apps.broker.postgres.callbacks import guarded
from apps.broker.postgres.packing import int4
from apps.broker.postgres.statistics import Counts

PACKED_LIMIT = 5900  # bytes: base64 makes 7,868 of them, and a notification holds 7,999


UNCOUNTED_LIMIT = 10_000  # topics of which deliveries are counted that nobody here has named


class Topics:
    """The local subscriptions, by topic or pattern of topics."""

    def __init__(self) -> None:
        self._exact: dict[Address, list[Subscription]] = {}
        self._patterns: dict[str, PatternTrie[Subscription]] = {}  # by namespace
        self._delivered: dict[Address, int] = {}
        self._dropped: WeakKeyDictionary[Subscription, int] = WeakKeyDictionary()  # how much of it was counted

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

    def remove(self, subscription: Subscription) -> None:
        """Stop delivering to it."""
        address = subscription.address
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

    def count(self, address: Address, counts: Counts) -> None:
        """Add what this topic's own subscribers were given and dropped since the last time."""
        counts.delivered += self._delivered.pop(address, 0)
        for subscription in self._exact.get(address, ()):
            before = self._dropped.get(subscription, 0)
            if subscription.dropped > before:
                counts.dropped += subscription.dropped - before
                self._dropped[subscription] = subscription.dropped

    def deliver(self, message: Message) -> None:
        """Hand a message to every local subscriber. A slow one drops and counts it itself."""
        address = message.address
        subscriptions: Sequence[Subscription] = self._exact.get(address, ())
        trie = self._patterns.get(address.namespace) if self._patterns else None
        if trie is not None:
            subscriptions = [*subscriptions, *trie.lookup(address.name)]
        if not subscriptions:
            return
        if len(self._delivered) > UNCOUNTED_LIMIT:
            self._delivered.clear()
        self._delivered[address] = self._delivered.get(address, 0) + len(subscriptions)
        delivery = [Delivery(MessageId(0), address, message.headers, message.body, False, 1)]
        headers: dict[str, str] | None = None
        for subscription in list(subscriptions):
            if subscription.closed:
                continue
            if subscription.selector is not None:
                if headers is None:
                    headers = decode_headers(message.headers)
                if not subscription.selector.matches(headers):
                    continue
            guarded(subscription.consumer.deliver, subscription, delivery)


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
