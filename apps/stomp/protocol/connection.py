"""The server's side of a conversation as a state machine. It owns no socket and no clock.

    state        what ends it
    greeting     CONNECT or STOMP with a version in common: an event, then
    entering     the shell: `accept` or `refuse`; what the client sends meanwhile waits
    open         DISCONNECT, a fatal violation, `close`
    closed       nothing

Rules of the stream live in `parser`; rules about what may follow what, and which headers a frame needs, live here.
Headers that only a broker can judge (destinations, prefetch) pass through.
"""

from typing import Literal, cast

from apps.stomp.protocol import encoder, heartbeat
from apps.stomp.protocol.dialects import RABBITMQ, Dialect
from apps.stomp.protocol.errors import (
    AlreadyConnected,
    BadHeaderValue,
    DuplicateSubscription,
    DuplicateTransaction,
    LocalProtocolError,
    MissingHeader,
    RemoteProtocolError,
    UnknownCommand,
    UnknownSubscription,
    UnknownTransaction,
    UnsupportedVersion,
)
from apps.stomp.protocol.events import (
    Abort,
    Ack,
    AckMode,
    Begin,
    Commit,
    Connect,
    Disconnect,
    Event,
    Nack,
    Send,
    Subscribe,
    Unsubscribe,
    Violation,
)
from apps.stomp.protocol.heartbeat import Beats, HeartBeat
from apps.stomp.protocol.parser import Frame, Heads, Limits, Parser

State = Literal["greeting", "entering", "open", "closed"]
#: Headers that name a durable subscription; an UNSUBSCRIBE with one ends it, also where nobody receives from it.
DURABLE_NAMES = frozenset({"activemq.subscriptionName", "durable-subscription-name", "durable-subscriber-name"})
ACK_MODES = frozenset({"auto", "client", "client-individual"})

#: What the server can guarantee to send and would like to receive, where the client asks for beats at all.
HEART_BEAT = HeartBeat(100, 100)


class ServerConnection:
    """A conversation with one client.

    Attributes:
        version: agreed on; "1.0" until then, so that an early ERROR is one that every client understands.
        beats: agreed on, in milliseconds.
        state: see the module.
    """

    __slots__ = (
        "_dialect",
        "_heart_beat_header",
        "_offer",
        "_parser",
        "_subscriptions",
        "_transactions",
        "beats",
        "state",
        "version",
    )

    def __init__(
        self, limits: Limits | None = None, heart_beat: HeartBeat = HEART_BEAT, dialect: Dialect = RABBITMQ
    ) -> None:
        self._parser = Parser(limits or Limits(), strict_acks=dialect.strict_ids)
        self._dialect = dialect
        self._offer = heart_beat
        self._heart_beat_header = "0,0"
        self._subscriptions: dict[str, str] = {}
        self._transactions: set[str] = set()
        self.version = "1.0"
        self.beats = Beats()
        self.state: State = "greeting"

    @property
    def survives_errors(self) -> bool:
        """Whether the conversation goes on after an ERROR that left the stream sound."""
        return self._dialect.survives_errors or self.version == "1.0"

    def receive(self, data: bytes) -> list[Event]:
        """What the client says with these bytes, in order."""
        items = self._parser.feed(data)
        if not self._parser.rare:
            return cast(list[Event], items)  # SENDs and ACKs alone: nothing to decide
        events: list[Event] = []
        for item in items:
            try:
                if type(item) is Frame:
                    events.append(self._event(item))
                elif type(item) is Send and item.head.special:
                    if not item.head.destination:
                        raise MissingHeader("SEND needs a destination")
                    self._check_open(item.head.transaction)
                    events.append(item)
                else:
                    events.append(cast(Event, item))
            except RemoteProtocolError as error:
                receipt = item.receipt if isinstance(item, Frame | Send) else None
                fatal = error.fatal or not self.survives_errors
                events.append(Violation(error.with_traceback(None), receipt, fatal))  # as in the parser: no cycle
            last = events[-1]
            if type(last) is Disconnect or (type(last) is Violation and last.fatal):
                self.close()
                break
        return events

    def accept(self, session: str, server: str, heads: Heads | None = None) -> bytes:
        """The client may come in: CONNECTED. Then `receive(b"")` returns what it said meanwhile.

        Args:
            heads: see `Parser.resume`; what the shell remembers of them (`SendHead.plan`) is shared as well.

        Raises:
            LocalProtocolError: nobody asked.
        """
        if self.state != "entering":
            raise LocalProtocolError(f"CONNECTED answers a CONNECT, and the state is {self.state}")
        self.state = "open"
        self._parser.resume(self.version, heads)
        return encoder.connected(self.version, session, server, self._heart_beat_header)

    def error(self, code: str, message: str, receipt: bytes | None = None) -> bytes:
        """ERROR, in the version agreed on. The shell closes after it, unless `survives_errors`."""
        extra = (("version", ",".join(encoder.VERSIONS)),) if code == UnsupportedVersion.code else ()
        return encoder.error(self.version, code, message, receipt, extra)

    @property
    def kept(self) -> int:
        """Bytes of a frame whose end has not come."""
        return self._parser.kept

    def close(self) -> None:
        """Listen no more."""
        self.state = "closed"
        self._parser.close()

    def forget_heads(self) -> None:
        """What the shell remembers of heads of SENDs (`SendHead.plan`) is no longer so."""
        self._parser.forget_heads()

    def drop_subscription(self, subscription: str) -> None:
        """The shell could not serve a SUBSCRIBE, or ended one of its own: the id is free again."""
        self._subscriptions.pop(subscription, None)

    def add_subscription(self, subscription: str, destination: str) -> None:
        """The shell subscribes on the client's behalf (a reply queue); the client may unsubscribe by this id."""
        self._subscriptions[subscription] = destination

    def drop_transaction(self, transaction: str) -> None:
        """The shell gave a transaction up: the name is free again."""
        self._transactions.discard(transaction)

    def _event(self, frame: Frame) -> Event:
        command, headers, receipt = frame
        match command:
            case "CONNECT" | "STOMP":
                return self._connect(headers)
            case "SUBSCRIBE":
                return self._subscribe(headers, receipt)
            case "UNSUBSCRIBE":
                return self._unsubscribe(headers, receipt)
            case "ACK":
                identifier, transaction, subscription = self._acknowledged(headers, command)
                return Ack([identifier], transaction, receipt, subscription)
            case "NACK":
                if self.version == "1.0" and self._dialect.strict_ids:
                    raise UnknownCommand("STOMP 1.0 has no NACK", fatal=False)
                identifier, transaction, subscription = self._acknowledged(headers, command)
                return Nack([identifier], transaction, headers, receipt, subscription)
            case "BEGIN":
                transaction = self._needed(headers, "transaction", command)
                if transaction in self._transactions:
                    raise DuplicateTransaction(f"transaction {transaction!r} is open already")
                self._transactions.add(transaction)
                return Begin(transaction, receipt)
            case "COMMIT" | "ABORT":
                transaction = self._needed(headers, "transaction", command)
                self._check_open(transaction)
                self._transactions.remove(transaction)
                return Commit(transaction, receipt) if command == "COMMIT" else Abort(transaction, receipt)
            case "DISCONNECT":
                return Disconnect(receipt)
            case _:
                raise UnknownCommand(f"{command[:32]!r} is no command of a STOMP client")

    def _connect(self, headers: dict[str, str]) -> Connect:
        if self.state != "greeting":
            raise AlreadyConnected("this connection has a CONNECT already")
        accepted = headers.get("accept-version", "1.0")
        if accepted in encoder.VERSIONS:
            self.version = accepted
        else:
            common = {version.strip() for version in accepted.split(",")}.intersection(encoder.VERSIONS)
            if not common:
                spoken = ", ".join(encoder.VERSIONS)
                raise UnsupportedVersion(f"none of the versions offered is spoken here ({spoken} are)")
            self.version = max(common)
        if self.version == "1.0":
            headers = {name: value.lstrip(" \t") for name, value in headers.items()}
        asked = headers.get("heart-beat")
        if asked is not None:
            self.beats = heartbeat.agree(heartbeat.parse(asked.replace(" ", "")), self._offer)
            self._heart_beat_header = str(self._offer)
        self.state = "entering"
        return Connect(headers.get("login"), headers.get("passcode"), headers.get("host"), headers)

    def _subscribe(self, headers: dict[str, str], receipt: bytes | None) -> Subscribe:
        destination = self._needed(headers, "destination", "SUBSCRIBE")
        ack = headers.get("ack", "auto")
        if ack not in ACK_MODES:
            raise BadHeaderValue(f"ack must be auto, client or client-individual, not {ack!r}")
        if self._dialect.strict_ids and self.version != "1.0":
            self._needed(headers, "id", "SUBSCRIBE")
        identifier = headers.get("id")
        named = identifier is not None
        if identifier is None:
            identifier = destination
        if identifier in self._subscriptions:
            raise DuplicateSubscription(f"subscription {identifier!r} exists already on this connection")
        self._subscriptions[identifier] = destination
        return Subscribe(identifier, named, destination, cast(AckMode, ack), headers, receipt)

    def _unsubscribe(self, headers: dict[str, str], receipt: bytes | None) -> Unsubscribe:
        identifier = headers.get("id")
        if identifier is None:
            destination = self._needed(headers, "destination", "UNSUBSCRIBE without an id")
            identifier = destination
            if destination not in self._subscriptions:
                found = [key for key, value in self._subscriptions.items() if value == destination]
                identifier = found[0] if len(found) == 1 else destination
        if identifier in self._subscriptions:
            del self._subscriptions[identifier]
        elif not (self._dialect.named_durables and DURABLE_NAMES & headers.keys()):
            raise UnknownSubscription(f"there is no subscription {identifier!r} on this connection")
        return Unsubscribe(identifier, headers, receipt)

    def _acknowledged(self, headers: dict[str, str], command: str) -> tuple[bytes, str | None, str | None]:
        name = "id" if self.version == "1.2" else "message-id"
        identifier = self._needed(headers, name, command)
        transaction = headers.get("transaction")
        self._check_open(transaction)
        subscription = None
        if self._dialect.strict_ids and self.version == "1.1":
            subscription = self._needed(headers, "subscription", command)
        return identifier.encode(), transaction, subscription

    def _check_open(self, transaction: str | None) -> None:
        if transaction is not None and transaction not in self._transactions:
            raise UnknownTransaction(f"there is no open transaction {transaction!r}")

    def _needed(self, headers: dict[str, str], name: str, command: str) -> str:
        value = headers.get(name)
        if not value:
            raise MissingHeader(f"{command} needs the header {name!r}")
        return value
