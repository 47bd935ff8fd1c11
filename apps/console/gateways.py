"""Asking the gateways, wherever they run: a question goes out on a topic, their answers come back on another.

See `apps.stomp.gateway.supervision` for the other side; the names here are those there.
"""

import asyncio
import json
import logging
import secrets
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from asgiref.sync import sync_to_async

from apps.broker import catalogue
from apps.broker.engine import Address
from apps.console.topics import topics_of_loop

logger = logging.getLogger(__name__)

NAMESPACE = "$gateways"
QUESTIONS = Address(NAMESPACE, "topic", "questions")
ANSWER_SECONDS = 1.0  # a gateway that has not answered by then is shown as silent


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection to a gateway, as it was when it was asked.

    Attributes:
        name: the STOMP session; "" before log-in.
        paused: why its socket is not read: `congestion` (the database lags), `rate` (its key's limit), `clogged` (it
            does not read), `errands` (its requests for jobs are under way), `log-in`, `declaration`.
        clogged: it does not read.
        unread: bytes that wait for it.
    """

    name: str
    listener: str
    dialect: str
    peer: str
    login: str
    namespace: str
    version: str
    since: datetime
    sent: int
    delivered: int
    subscriptions: int
    unacked: int
    paused: list[str]
    clogged: bool
    unread: int
    traced: bool


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway process.

    Attributes:
        polling: notifications of Postgres do not reach it.
        count: of its connections, of which `connections` may be the newest alone.
    """

    host: str
    process: int
    polling: bool
    count: int
    connections: list[Connection]


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of all.

    Attributes:
        silent: gateways that hold their lease and did not answer.
        polling: processes of any kind that notifications of Postgres do not reach, and so no question does; in words.
    """

    gateways: list[Gateway]
    silent: int
    polling: list[str]


async def survey() -> Survey:
    """All connections of all gateways.

    Raises:
        Unavailable: the database does not answer.
    """
    expected = await sync_to_async(catalogue.sessions_serving)("gateway")
    feed = topics_of_loop()
    answers: list[dict[str, Any]] = []
    reply = f"answer.{secrets.token_urlsafe(12)}"
    async with feed.listen(Address(NAMESPACE, "topic", reply)) as listener:
        await ask({"ask": "connections", "reply": reply})
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while len(answers) < expected:
                    await listener.woken.wait()
                    listener.woken.clear()
                    answers += [json.loads(delivery.body) for delivery in listener.take()[0]]
        except TimeoutError:
            pass  # what is missing is said
    gateways = _understood(answers)
    return Survey(
        sorted(gateways, key=lambda one: (one.host, one.process)),
        max(0, expected - len(gateways)),
        await sync_to_async(_polling)(),
    )


def _polling() -> list[str]:
    return [
        f"{one.kind} {one.host} pid {one.pid}"
        for one in catalogue.sessions()
        if one.alive and one.kind != "worker" and one.details.get("polling")
    ]


async def ask(question: dict[str, Any]) -> None:
    """Send a question to all gateways.

    Raises:
        Unavailable: the database does not answer.
    """
    await topics_of_loop().publish(QUESTIONS, json.dumps(question).encode())


def _understood(answers: list[dict[str, Any]]) -> list[Gateway]:
    """While gateways are replaced by those of another version, each says what it knows; who cannot be understood at all
    counts among the silent."""
    gateways = []
    for answer in answers:
        try:
            gateways.append(_gateway(answer))
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("a gateway's answer was not understood: %s: %s", type(error).__name__, error)
    return gateways


def _gateway(answer: dict[str, Any]) -> Gateway:
    known = {field.name for field in fields(Connection)}
    connections = [
        Connection(
            **{name: value for name, value in one.items() if name in known}
            | {"since": datetime.fromtimestamp(one["since"], UTC)}
        )
        for one in answer["connections"]
    ]
    connections.sort(key=lambda one: one.since, reverse=True)
    return Gateway(answer["host"], answer["process"], bool(answer.get("polling")), answer["count"], connections)
