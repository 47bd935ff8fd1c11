"""SUBSCRIBE and UNSUBSCRIBE: queues, topics, durable subscriptions, browsers, and reply queues of one connection."""

import asyncio
import secrets
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from apps.broker.engine import REPLY_PREFIX, Address, Done
from apps.broker.headers import decode_headers
from apps.stomp.gateway import declarations, features, permitted, wishes
from apps.stomp.gateway.destinations import (
    JOB_CONTROL,
    Job,
    Target,
    Task,
    Temporary,
    check_subscribable,
    parse_destination,
    written,
)
from apps.stomp.gateway.errors import TooMany
from apps.stomp.gateway.preparing import prepare
from apps.stomp.gateway.subscriptions import ClientSubscription
from apps.stomp.gateway.wishes import NO_WISH, SubscriptionWish
from apps.stomp.protocol.encoder import MessageEncoder
from apps.stomp.protocol.events import AckMode, Subscribe, Unsubscribe
from msgweb.errors import AccessRefused, BadDestination, MsgwebError, NotFound

if TYPE_CHECKING:
    from apps.stomp.gateway.connections import ClientConnection


class ReplyPlace(NamedTuple):
    """What `/temp-queue/x` or `/temp-topic/x` is on this connection."""

    address: Address
    subscriptions: list[ClientSubscription]


class Grant(NamedTuple):
    """What a subscription of the client's own was allowed.

    Attributes:
        subject: which it asked for; of a durable subscription, the topic.
        credit: how much of what its key may hold unacknowledged; 0: it does not acknowledge.
    """

    subject: Address
    credit: int


class Receiving:
    """What a connection receives from.

    Attributes:
        subscriptions: by the client's ids.
        autos: how many of them are `ack:auto`.
        has_browsed: it has seen messages that it does not hold, and may ack them all the same.
    """

    __slots__ = (
        "_browsers",
        "_connection",
        "_durable",
        "_granted",
        "_replies",
        "autos",
        "has_browsed",
        "subscriptions",
    )

    def __init__(self, connection: "ClientConnection") -> None:
        self._connection = connection
        self._browsers: dict[str, asyncio.Event] = {}  # set when there may be room for more, or no wish for it
        self._durable: dict[str, Address] = {}  # queues of durable subscriptions, by the subscription's id
        self._granted: dict[str, Grant] = {}
        self._replies: dict[Temporary, ReplyPlace] = {}
        self.subscriptions: dict[str, ClientSubscription] = {}
        self.autos = 0
        self.has_browsed = False

    def subscribe(self, event: Subscribe) -> None:
        """SUBSCRIBE.

        Raises:
            MsgwebError: it cannot be; the id is free again.
        """
        connection = self._connection
        selector = wishes.selector_of(event.headers)
        if connection.selectors.is_long(selector):
            free = partial(connection.core.drop_subscription, event.id)
            read = connection.selectors.read(selector, connection)
            prepare(connection, read, event.receipt, partial(self._subscribe, event), free)
        else:
            self._subscribe(event)

    def _subscribe(self, event: Subscribe) -> None:
        connection = self._connection
        options = connection.options
        try:
            controls = len(connection.work.controls) if connection.work is not None else 0
            if len(self.subscriptions) + len(self._browsers) + controls >= options.subscriptions:
                raise TooMany(f"a connection has at most {options.subscriptions} subscriptions")
            target = parse_destination(connection.namespace, event.destination)
            if target == JOB_CONTROL:
                self._listen(event)
                return
            address = self._readable(target)
            features.check(event.headers, features.SUBSCRIBE)
            if address.kind == "queue":
                features.check(event.headers, features.SUBSCRIBE_QUEUE)
            wish = wishes.of_subscribe(event.headers)
            prefetch = features.prefetch_of(event.headers, options.prefetch, options.prefetch_limit)
            subject = address
            if address.kind == "topic":
                address = self._bound(address, event)
            settings = declarations.of(event.headers)
            if settings:
                declarations.check_declarable(address)
            if wish.browser and address.kind != "queue":
                raise BadDestination("a topic keeps nothing that could be browsed")
            permitted.check_receive(connection.entered, subject, settings)
            acks = event.ack != "auto" and address.kind == "queue" and not wish.browser
            credit = options.auto_credit if event.ack == "auto" or address.kind == "topic" else prefetch
            granted = connection.entering.usage.subscribe(credit if acks else 0)
        except MsgwebError:
            connection.core.drop_subscription(event.id)
            self._durable.pop(event.id, None)
            raise
        shown = event.named or connection.version != "1.0"
        subscription = self._make(address, event.id, event.ack, shown=shown, prefetch=prefetch)
        if type(target) is Temporary:
            self._take_over(self._replies[target], subscription)
        self._granted[event.id] = Grant(subject, granted)
        go_on = partial(self._begin, event, subscription, subject, address, granted if acks else credit, wish)
        if settings:
            connection.declare(address, settings, event.receipt, go_on, partial(self._give_up, event.id))
        else:
            go_on()

    def _listen(self, event: Subscribe) -> None:
        """To what becomes of the jobs that the client works on; nobody else's word comes there.

        Raises:
            NotSupported: this gateway has no jobs.
        """
        connection = self._connection
        work = connection.working()
        shown = event.id if event.named or connection.version != "1.0" else None
        encoder = MessageEncoder(connection.version, shown, event.destination, ackable=event.ack != "auto")
        connection.receipts.settled(event.receipt)
        work.listen(event.id, encoder)

    def _give_up(self, identifier: str) -> None:
        """A subscription that was refused after all."""
        self._connection.core.drop_subscription(identifier)
        self._durable.pop(identifier, None)
        self._return(identifier)

    def check_access(self) -> None:
        """What may be received from may have changed.

        Raises:
            AccessRefused: there is a subscription to what may not be received from any more.
        """
        for grant in self._granted.values():
            permitted.check_receive(self._connection.entered, grant.subject)

    def _begin(
        self,
        event: Subscribe,
        subscription: ClientSubscription,
        subject: Address,
        address: Address,
        credit: int,
        wish: SubscriptionWish,
    ) -> None:
        connection = self._connection
        if wish.browser:
            connection.receipts.settled(event.receipt)
            self._browsers[event.id] = asyncio.Event()
            self.has_browsed = True
            connection.start_task(self._browse(event, subscription, address, wish))
            return
        done = connection.expect(event.receipt)
        if address is subject:
            self._add(subscription, address, credit, done, wish)
        else:
            self._add(subscription, address, credit, connection.unconfirmed, wish)
            connection.engine.bind(subject, address, done)

    async def _browse(
        self, event: Subscribe, subscription: ClientSubscription, address: Address, wish: SubscriptionWish
    ) -> None:
        """Show what waits, as fast as the client reads it, then say that this was all."""
        connection = self._connection
        relieved = self._browsers[event.id]
        try:
            async for page in connection.queues.browse(address.namespace, address.name):
                if self._browsers.get(event.id) is not relieved:
                    return
                subscription.show(
                    one for one in page if wish.selector is None or wish.selector.matches(decode_headers(one.headers))
                )
                while connection.clogged and self._browsers.get(event.id) is relieved:
                    relieved.clear()
                    await relieved.wait()
        except MsgwebError as error:
            connection.unconfirmed(error)
            return
        if self._browsers.get(event.id) is relieved:
            subscription.show_end()

    def unsubscribe(self, event: Unsubscribe) -> None:
        """UNSUBSCRIBE.

        Raises:
            NotFound: of nothing.
            BadHeader: see `wishes.durable_name`.
        """
        connection = self._connection
        browser = self._browsers.pop(event.id, None)
        if browser is not None:
            browser.set()
            self._return(event.id)
            connection.receipts.settled(event.receipt)
            return
        if connection.work is not None and connection.work.controls.pop(event.id, None) is not None:
            connection.receipts.settled(event.receipt)
            return
        subscription = self.subscriptions.get(event.id)
        if subscription is None:
            name = wishes.durable_name(event, "", connection.subscriber, connection.dialect)
            if name is not None:  # the core lets it through: nobody receives from it here
                connection.engine.end_durable(
                    Address(connection.namespace, "queue", name), connection.expect(event.receipt)
                )
                return
            raise NotFound(f"there is no subscription {event.id!r} on this connection")
        done = connection.expect(event.receipt)
        durable = self._durable.pop(event.id, None)
        if durable is not None and wishes.ends_durable(event.headers):
            self._remove(subscription, connection.unconfirmed)
            connection.engine.end_durable(durable, done)
            return
        self._remove(subscription, done)
        for target, place in list(self._replies.items()):
            if subscription in place.subscriptions:
                place.subscriptions.remove(subscription)
                if not place.subscriptions:
                    self._close(self._replies.pop(target))

    def pause(self) -> None:
        """Bring nothing new."""
        for subscription in self.subscriptions.values():
            self._connection.engine.set_credit(subscription.handle, 0)

    def resume(self) -> None:
        """Bring what there is, again."""
        for subscription in self.subscriptions.values():
            self._connection.engine.set_credit(subscription.handle, subscription.credit)
        for browser in self._browsers.values():
            browser.set()

    def release(self, *, failed: bool) -> None:
        """End all of them; what they held is given back.

        Args:
            failed: the client has gone without a word: what it worked on counts as a failed delivery.
        """
        work, engine = self._connection.work, self._connection.engine
        for subscription in list(self.subscriptions.values()):
            subscription.end()
            if work is None or not work.close(subscription, leaving=True):
                engine.unsubscribe(subscription.handle, failed=failed and not subscription.auto)
        self.subscriptions.clear()
        for identifier in list(self._granted):
            self._return(identifier)
        for browser in self._browsers.values():
            browser.set()
        self._browsers.clear()
        self._durable.clear()
        self.autos = 0
        for place in self._replies.values():
            self._close(place)
        self._replies.clear()

    def temporary(self, target: Temporary) -> Address:
        """A temporary queue or topic of this connection, made when it is named first.

        Raises:
            TooMany: of them.
        """
        return self._reply_place(target).address

    def reply_name(self, text: str) -> str:
        """What others call the temporary destination that a `reply-to` names.

        Naming it there implies an `ack:auto` subscription whose id is the destination, where the client has none of
        its own and its broker does so (RabbitMQ).
        """
        connection = self._connection
        target = parse_destination(connection.namespace, text)
        assert type(target) is Temporary
        place = self._reply_place(target)
        implied = connection.dialect.implied_reply_subscription and target.kind == "queue"
        if implied and not place.subscriptions and text not in self.subscriptions:
            subscription = self._make(place.address, text, "auto")
            place.subscriptions.append(subscription)
            connection.core.add_subscription(text, text)
            self._add(subscription, place.address, connection.options.auto_credit, connection.unconfirmed)
        return written(place.address, connection.dialect)

    def _make(
        self, address: Address, identifier: str, ack: AckMode, *, shown: bool = True, prefetch: int = 1
    ) -> ClientSubscription:
        connection = self._connection
        frames = connection.topic_frames
        return ClientSubscription(
            connection, connection.engine, frames, address, identifier, ack, shown=shown, prefetch=prefetch
        )

    def _bound(self, topic: Address, event: Subscribe) -> Address:
        """Where a subscription to a topic really receives: a durable one, from its queue."""
        connection = self._connection
        name = wishes.durable_name(event, topic.name, connection.subscriber, connection.dialect)
        if name is None:
            return topic
        queue = Address(topic.namespace, "queue", name)
        self._durable[event.id] = queue
        return queue

    def _add(
        self,
        subscription: ClientSubscription,
        address: Address,
        credit: int,
        done: Done,
        wish: SubscriptionWish = NO_WISH,
    ) -> None:
        connection = self._connection
        self.subscriptions[subscription.id] = subscription
        self.autos += subscription.auto
        subscription.credit = credit
        subscription.handle = connection.engine.subscribe(
            address,
            subscription,
            credit if connection.takes_more else 0,
            done,
            priority=wish.priority,
            selector=wish.selector,
            exclusive=wish.exclusive and address.kind == "queue",
        )

    def _readable(self, target: Target) -> Address:
        match target:
            case Temporary():
                return self.temporary(target)
            case Task() | Job():
                raise BadDestination(
                    "jobs are asked for by SEND; there is nothing to receive. Who works on jobs hears at /job/control"
                    " when one is to stop"
                )
        if target.name.startswith(REPLY_PREFIX):
            raise AccessRefused("a reply queue is received from by who made it, as /temp-queue/NAME")
        check_subscribable(target, self._connection.engine.capabilities)
        return target

    def _remove(self, subscription: ClientSubscription, done: Done) -> None:
        del self.subscriptions[subscription.id]
        self._return(subscription.id)
        self.autos -= subscription.auto
        subscription.end()
        connection = self._connection
        connection.taken_away(subscription)
        if connection.work is None or not connection.work.close(subscription, done):
            connection.engine.unsubscribe(subscription.handle, done)

    def _return(self, identifier: str) -> None:
        """What a subscription was granted is free for others; one that the server made was granted nothing."""
        grant = self._granted.pop(identifier, None)
        if grant is not None:
            self._connection.entering.usage.unsubscribe(grant.credit)

    def _reply_place(self, target: Temporary) -> ReplyPlace:
        place = self._replies.get(target)
        if place is None:
            connection = self._connection
            most = connection.options.subscriptions
            if len(self._replies) >= most:
                raise TooMany(f"a connection has at most {most} reply queues")
            token = secrets.token_urlsafe(18)
            if target.kind == "queue":
                address = connection.engine.open_reply_queue(connection.namespace, token, connection.unconfirmed)
            else:
                address = Address(connection.namespace, "topic", REPLY_PREFIX + token)
            place = self._replies[target] = ReplyPlace(address, [])
        return place

    def _close(self, place: ReplyPlace) -> None:
        if place.address.kind == "queue":
            self._connection.engine.close_reply_queue(place.address)

    def _take_over(self, place: ReplyPlace, subscription: ClientSubscription) -> None:
        """An explicit SUBSCRIBE takes the place of the implied subscription."""
        for other in list(place.subscriptions):
            if other.id.startswith("/temp-queue/") and other.id != subscription.id:
                place.subscriptions.remove(other)
                self._connection.core.drop_subscription(other.id)
                self._remove(other, self._connection.unconfirmed)
        place.subscriptions.append(subscription)
