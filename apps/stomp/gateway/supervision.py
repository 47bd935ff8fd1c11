"""What people at the console ask of all gateways: who is connected, what they say, and to end a connection.

The questions come over a topic of a namespace that nobody can enter, and so do the answers: gateways on any machine
hear them, and none needs a port for it. See `apps.console.gateways` for the other side.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apps.broker.engine import Address, Delivery, Message, Subscription
from apps.stomp.gateway.errors import EndedByOperator

if TYPE_CHECKING:
    from apps.stomp.gateway.connections import ClientConnection
    from apps.stomp.gateway.server import Gateway

logger = logging.getLogger(__name__)

NAMESPACE = "$gateways"  # no namespace can have such a name, so no client can be in it
QUESTIONS = Address(NAMESPACE, "topic", "questions")
CONNECTIONS_LIMIT = 500  # that one gateway tells of
CREDIT = 1_000


class Supervision:
    """A gateway's ear. A `Consumer` of its engine."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway

    def start(self) -> None:
        """Listen from now on."""
        self._gateway.engine.subscribe(QUESTIONS, self, CREDIT)

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        """Answer, and take no notice of what cannot be understood: another version may have asked."""
        for delivery in deliveries:
            try:
                question = json.loads(delivery.body)
                self._answer(question)
            except (ValueError, KeyError, TypeError) as error:
                logger.warning("a question to the gateways was not understood: %s: %s", type(error).__name__, error)

    def lost(self, subscription: Subscription) -> None:
        """A topic holds nothing that could be lost."""

    def publish(self, topic: str, body: bytes) -> None:
        """To a topic of the gateways' namespace."""
        self._gateway.engine.send(Message(Address(NAMESPACE, "topic", topic), body))

    def _answer(self, question: dict[str, Any]) -> None:
        connections = self._gateway.connections
        match question["ask"]:
            case "connections":
                shown = sorted(connections, key=lambda one: one.opened)[-CONNECTIONS_LIMIT:]
                answer = {
                    "session": self._gateway.engine.session,
                    "host": socket.gethostname(),
                    "process": os.getpid(),
                    "polling": self._gateway.engine.polling,
                    "count": len(connections),
                    "connections": [_described(one) for one in shown],
                }
                self.publish(str(question["reply"]), json.dumps(answer).encode())
            case "trace":
                login, name = str(question.get("login", "")), str(question.get("connection", ""))
                seconds = float(question["seconds"])
                self._gateway.traces.start(str(question["reply"]), seconds, connections, login=login, name=name)
                logger.info("trace of %s for %g seconds, by %s", login or name, seconds, question.get("by", "-"))
            case "end":
                for one in [one for one in connections if one.name and one.name == question["connection"]]:
                    logger.info("connection %s is ended by %s", one.name, question.get("by", "-"))
                    one.end(EndedByOperator("this connection was ended from the console"))


def _described(connection: "ClientConnection") -> dict[str, Any]:
    principal = connection.principal
    return {
        "name": connection.name,
        "listener": str(connection.listener),
        "dialect": connection.dialect.name,
        "peer": connection.peer_name,
        "login": principal.login if principal else "",
        "namespace": connection.namespace,
        "version": connection.version if principal else "",
        "since": time.time() - (connection.loop.time() - connection.opened),
        "sent": connection.sent,
        "delivered": connection.delivered,
        "subscriptions": connection.subscriptions,
        "unacked": len(connection.held),
        "paused": sorted(connection.holds),
        "clogged": connection.clogged,
        "unread": connection.unread,
        "traced": connection.trace is not None and connection.trace.until > time.monotonic(),
    }
