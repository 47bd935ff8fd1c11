"""The verbs: fire-and-forget, publish-subscribe, request-reply, consume (Enterprise Integration Patterns)."""

import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from apps.messaging import content, destinations
from apps.messaging.connection import Connection, NotSent
from apps.messaging.credentials import Credentials
from apps.messaging.errors import (
    BadMessage,
    ConnectionFailed,
    JobCancelled,
    MessagingError,
    OutcomeUnknown,
    Refused,
    ReplyTimeout,
    RequestFailed,
)
from apps.messaging.message import Accepted, Body, Message, Progress, Reply, Told

logger = logging.getLogger(__name__)

Handler = Callable[[Message], object]

BACK_OFF_FIRST, BACK_OFF_MOST = 0.1, 5.0  # seconds
TOPIC_BACKLOG = 10_000
#: The server's codes that mean "not now" rather than "not you".
PASSING = frozenset({"unavailable", "session_lost"})
#: Named in `reply-to` alone: the server makes the reply queue and subscribes this connection to it.
REPLY_QUEUE = "/temp-queue/replies"
#: The id of the subscription by which the server tells what becomes of jobs.
JOB_CONTROL = "job-control"


def _back_off(failures: int) -> float:
    """Seconds to wait after so many failures: doubling, bounded, and jittered, so that clients do not come in step."""
    wait: float = min(BACK_OFF_MOST, BACK_OFF_FIRST * 2 ** min(failures, 10))
    return wait * random.uniform(0.5, 1.0)


def _told_of(connection: Connection, attempt: str, job_id: str) -> Told | None:
    """What is known of a job that came over that connection; when that is lost, the server gives it to another."""
    return connection.told.get(job_id) if connection.alive else Told(attempt, False, "lost")


@dataclass(slots=True, eq=False)
class _Consumer:
    """A handler and what it listens to; outlives the connections."""

    id: str
    destination: str
    handler: Handler
    prefetch: int
    failures: int = 0
    waiting: int = 0  # of a topic, whose messages nobody holds back for us
    dropped: int = 0

    @property
    def is_topic(self) -> bool:
        return self.destination.startswith("/topic/")


@dataclass(slots=True)
class _Delivery:
    connection: Connection
    consumer: _Consumer
    message: Message


@dataclass(slots=True)
class _Call:
    """A request that waits.

    Attributes:
        news: what came for it; a connection, when that one was lost and with it the reply queue.
        connection: over which it was asked.
    """

    news: SimpleQueue[Message | Connection] = field(default_factory=SimpleQueue)
    connection: Connection | None = None


class Messaging:
    """A program's door to one namespace.

    Connects at the first verb and again, with back-off, whenever the connection was lost. May be shared by threads;
    handlers run in the thread that calls `run`.

    Args:
        host, port: the STOMP gateway.
        login, passcode: an access key.
        namespace: `project.environment`, such as `taoshop.production`; None is the key's default.
        timeout: how many seconds a verb may take to connect and to get its receipt, unless told otherwise.
    """

    def __init__(
        self, host: str, port: int, login: str, passcode: str, namespace: str | None = None, *, timeout: float = 10.0
    ) -> None:
        self.credentials = Credentials(host, port, login, passcode, namespace)
        self.timeout = timeout
        self._opening = threading.RLock()
        self._connection: Connection | None = None
        self._consumers: dict[str, _Consumer] = {}
        self._calls: dict[str, _Call] = {}
        self._deliveries: SimpleQueue[_Delivery | None] = SimpleQueue()
        self._closed = threading.Event()
        # Not an Event: stop() may be called from a signal handler, where only SimpleQueue.put is safe.
        self._stopping = False
        self._stop_signal: SimpleQueue[None] = SimpleQueue()

    @classmethod
    def from_credentials(cls, path: str | os.PathLike[str], *, timeout: float = 10.0) -> Self:
        """As an installation's `credentials.json` says.

        Raises:
            BadCredentials: the file cannot be read, or lacks something.
        """
        return cls._of(Credentials.from_file(path), timeout)

    @classmethod
    def from_environment(cls, *, timeout: float = 10.0) -> Self:
        """As MSGWEB_STOMP, MSGWEB_LOGIN, MSGWEB_PASSCODE and MSGWEB_NAMESPACE say, else the credentials file.

        Raises:
            BadCredentials: there is not enough of either.
        """
        return cls._of(Credentials.from_environment(), timeout)

    @classmethod
    def _of(cls, given: Credentials, timeout: float) -> Self:
        return cls(given.host, given.port, given.login, given.passcode, given.namespace, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave for good. What was sent and acknowledged takes effect; what was not handled goes to others."""
        self._closed.set()
        self.stop()
        with self._opening:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # ------------------------------------------------------------------------------------------------ the verbs

    def send(
        self,
        queue: str,
        body: Body,
        *,
        headers: Mapping[str, str] | None = None,
        priority: int | None = None,
        persistent: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Fire and forget: when this returns, the server has stored the message durably.

        Args:
            queue: `mails`, or in full `/queue/mails`.
            body: `str` goes as text, bytes as bytes, all else as JSON.
            priority: 0 to 9, higher first; 4 without one.
            persistent: False gives up safety against a crash of the database for speed.
            timeout: seconds to connect and get the receipt.

        Raises:
            BadMessage, BadBody: it cannot be sent.
            ConnectionFailed: nobody answered; nothing was sent.
            Refused: the server does not take it.
            OutcomeUnknown: it left, but no receipt came.
        """
        own = destinations.checked(headers)
        if priority is not None:
            if priority not in range(10):
                raise BadMessage(f"a priority is 0 to 9, not {priority}")
            own["priority"] = str(priority)
        own["persistent"] = "true" if persistent else "false"
        self._send(destinations.queue(queue), body, own, self._deadline(timeout))

    def publish(
        self, topic: str, body: Body, *, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> None:
        """Tell whoever listens now; best effort: nobody listening is no error.

        Args:
            topic: `orders.new`, or in full `/topic/orders.new`.

        Raises: as `send`.
        """
        self._send(destinations.topic(topic), body, destinations.checked(headers), self._deadline(timeout))

    def request(
        self,
        task: str,
        body: Body,
        *,
        timeout: float = 60.0,
        headers: Mapping[str, str] | None = None,
        on_accepted: Callable[[Accepted], object] | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        job_id: uuid.UUID | None = None,
    ) -> Reply:
        """Ask for work and wait for its result.

        A task's job goes on if this process dies, and is asked for again, under the same id, if the connection was
        lost: it runs once. A request to a queue is not repeated: who works there need not notice a repeat.

        Args:
            task: a task, `firebrand.clone_brand`, or a queue in full, `/queue/thumbnails`.
            body: a task's arguments as a dict, or whatever the queue's consumer expects.
            timeout: seconds until the reply must be there.
            on_accepted: called when the server has taken the task, with its status page.
            on_progress: called with each progress message.
            job_id: the id to ask under, for those who ask again after a ReplyTimeout or a crash.

        Raises:
            BadMessage, BadBody, ConnectionFailed, Refused: nothing was begun.
            OutcomeUnknown: the connection was lost, and the request, to a queue, may have arrived or not.
            ReplyTimeout: no reply in time; the work goes on.
            RequestFailed: the reply is an error.
        """
        deadline = time.monotonic() + timeout
        destination = destinations.task(task)
        is_task = destination.startswith("/task/")
        own = destinations.checked(headers)
        correlation = str(job_id or uuid.uuid4())
        own |= {"reply-to": REPLY_QUEUE, "correlation-id": correlation, "persistent": "true"}
        if is_task and (on_progress or on_accepted):
            own["progress"] = "true"
        call = _Call()
        self._calls[correlation] = call
        accepted: Accepted | None = None
        try:
            self._ask(call, destination, body, own, deadline, is_task)
            while True:
                try:
                    message = call.news.get(timeout=max(0.001, deadline - time.monotonic()))
                except Empty:
                    raise ReplyTimeout(
                        f"no reply within {timeout:g} s; the work may go on",
                        correlation,
                        accepted.status_url if accepted else None,
                    ) from None
                if isinstance(message, Connection):
                    if message is not call.connection:
                        continue  # asked again over another one meanwhile
                    if not is_task:
                        raise OutcomeUnknown("the connection was lost before the reply came")
                    self._ask(call, destination, body, own, deadline, is_task)
                    continue
                told: dict[str, Any] = message.body if isinstance(message.body, dict) else {}
                match message.headers.get("job-event", "result"):
                    case "accepted":
                        accepted = Accepted(correlation, told.get("status_url"))
                        if on_accepted:
                            on_accepted(accepted)
                    case "progress":
                        if on_progress:
                            on_progress(Progress(told.get("done", 0), told.get("total", 0), told.get("text") or ""))
                    case "error":
                        text = str(told.get("message") or message.body or "the work failed")
                        raise RequestFailed(text, told.get("code"), correlation)
                    case "result":
                        url = accepted.status_url if accepted else None
                        return Reply(message.body, message.headers, correlation, url)
        finally:
            del self._calls[correlation]

    def on(self, destination: str, handler: Handler, *, prefetch: int = 10, timeout: float | None = None) -> None:
        """Listen to a queue or a topic; `run` calls the handler with each message.

        When this returns, the subscription stands. A queue's message is acknowledged when the handler returned, and
        goes back to the queue when it raised. A job ends with the handler: it has succeeded when that returned (with
        None, where it did not reply), and failed when it raised.

        Args:
            destination: a queue, `mails`; a topic is named in full, `/topic/orders.new`.
            prefetch: how many messages of a queue may be here unhandled. 1 where a message is much work.

        Raises:
            BadMessage: no destination, or a prefetch below 1.
            ConnectionFailed, Refused: it does not listen.
        """
        if prefetch < 1:
            raise BadMessage(f"prefetch is at least 1, not {prefetch}")
        consumer = _Consumer(f"on-{len(self._consumers) + 1}", destinations.source(destination), handler, prefetch)
        deadline = self._deadline(timeout)
        with self._opening:
            connection = self._open(deadline)
            self._consumers[consumer.id] = consumer
            try:
                self._subscribe(connection, consumer, deadline)
            except Refused:
                del self._consumers[consumer.id]
                raise
            except (NotSent, OutcomeUnknown):
                # Registered: the next connection, opened here or by `run`, subscribes it again.
                self._open(deadline)

    def run(self, *, limit: int | None = None, idle: float | None = None) -> int:
        """Call the handlers with what arrives, until `stop()`; returns how many messages were handled.

        Args:
            limit: stop after so many messages.
            idle: stop when nothing came for so many seconds.

        Raises:
            BadMessage: nothing to listen to: call `on` first.
            Refused: the server no longer lets us in.
        """
        if not self._consumers:
            raise BadMessage("nothing to listen to: call on() first")
        self._stopping = False
        while not self._stop_signal.empty():
            self._stop_signal.get()
        handled = 0
        while not self._stopping and (limit is None or handled < limit):
            try:
                self._open(None)
            except ConnectionFailed:
                break  # only stop() ends the attempts
            try:
                delivery = self._deliveries.get(timeout=idle)
            except Empty:
                break
            if delivery is None:
                continue  # stop() was called, or a connection was lost
            if not delivery.consumer.is_topic and not delivery.connection.alive:
                continue  # the server has given it to someone else
            self._handle(delivery)
            handled += 1
        return handled

    def stop(self) -> None:
        """Make `run` return after the message that it is at; may be called from a handler, a thread or a signal."""
        self._stopping = True
        self._stop_signal.put(None)
        self._deliveries.put(None)

    # ------------------------------------------------------------------------------------------------ inside

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self.timeout if timeout is None else timeout)

    def _open(self, deadline: float | None) -> Connection:
        """The connection, opened if need be: with back-off until the deadline, or without one until `stop()`.

        Raises:
            ConnectionFailed: not before the deadline, or stopped.
            Refused: the server does not let us in, or not listen.
        """
        # Another thread may be at it without a deadline.
        if not self._opening.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
            raise ConnectionFailed("nobody answers")
        try:
            failures = 0
            while True:
                if self._closed.is_set():
                    raise ConnectionFailed("this Messaging was closed")
                if self._connection is not None and self._connection.alive:
                    return self._connection
                until = time.monotonic() + self.timeout
                if deadline is not None:
                    until = min(until, deadline)
                connection = Connection(self.credentials, self._on_message, self._on_lost)
                try:
                    connection.open(until)
                    for consumer in self._consumers.values():
                        self._subscribe(connection, consumer, until)
                    self._connection = connection
                    return connection
                except (ConnectionFailed, OutcomeUnknown, NotSent, Refused) as error:
                    connection.close()
                    if isinstance(error, Refused) and error.code not in PASSING:
                        raise
                    wait = _back_off(failures)
                    failures += 1
                    if deadline is not None and time.monotonic() + wait >= deadline:
                        raise ConnectionFailed(str(error) or "the connection was lost") from error
                    logger.info("%s; trying again in %.1f s", error or "the connection was lost", wait)
                    if deadline is not None:
                        self._closed.wait(wait)
                    elif self._pause(wait):
                        raise ConnectionFailed("stopped while connecting") from error
        finally:
            self._opening.release()

    def _pause(self, seconds: float) -> bool:
        """Wait, or be stopped (True)."""
        if not self._stopping:
            try:
                self._stop_signal.get(timeout=seconds)
            except Empty:
                return False
        return True

    def _subscribe(self, connection: Connection, consumer: _Consumer, deadline: float) -> None:
        headers = {"destination": consumer.destination, "id": consumer.id}
        if consumer.is_topic:
            headers["ack"] = "auto"
        else:
            headers |= {"ack": "client-individual", "prefetch-count": str(consumer.prefetch)}
        connection.send_confirmed("SUBSCRIBE", headers, b"", deadline)

    def _send(
        self, destination: str, body: Body, headers: Mapping[str, str], deadline: float, call: _Call | None = None
    ) -> None:
        data, content_type = content.encode(body)
        frame = {"content-type": content_type, **headers, "destination": destination}
        while True:
            connection = self._open(deadline)
            if call is not None:
                call.connection = connection
            try:
                connection.send_confirmed("SEND", frame, data, deadline)
                return
            except NotSent:
                if time.monotonic() >= deadline:
                    raise ConnectionFailed("the connection was lost; nothing was sent") from None

    def _ask(
        self, call: _Call, destination: str, body: Body, headers: Mapping[str, str], deadline: float, repeatable: bool
    ) -> None:
        while True:
            try:
                self._send(destination, body, headers, deadline, call)
                return
            except OutcomeUnknown:
                # The job's id makes the ask idempotent: asked twice, it is one job.
                if not repeatable or time.monotonic() >= deadline:
                    raise

    def _handle(self, delivery: _Delivery) -> None:
        consumer, message = delivery.consumer, delivery.message
        if consumer.is_topic:
            consumer.waiting -= 1
        raised: Exception | None = None
        try:
            if message.is_job:
                self._listen_to_jobs(delivery.connection)
                message.checkpoint()  # it may have waited here for long
            consumer.handler(message)
        except NotSent:
            logger.warning("the connection was lost before message %s was begun: it comes again", message.id)
            return
        except JobCancelled as error:
            raised = error
        except Exception as error:
            raised = error
            logger.exception("the handler of %s raised on message %s", consumer.destination, message.id)
        try:
            done = message.finish(raised)
        except MessagingError as error:
            logger.warning("how job %s ended cannot be told: %s", message.job_id, error)
            done = False
        delivery.connection.told.pop(message.job_id or "", None)
        if not done:
            consumer.failures += 1
            if consumer.is_topic:
                return
            # Without the pause a message that no one can handle would be thrown and caught as fast as the wire allows.
            self._pause(_back_off(consumer.failures - 1))
            verdict = "NACK"
        else:
            consumer.failures = 0
            if consumer.is_topic:
                return
            verdict = "ACK"
        try:
            delivery.connection.send(verdict, {"id": message.headers.get("ack") or message.id})
        except NotSent:
            logger.warning("the connection was lost before message %s was acknowledged: it comes again", message.id)

    def _listen_to_jobs(self, connection: Connection) -> None:
        """To what becomes of them; does not wait.

        Raises:
            NotSent: the connection is over.
        """
        if not connection.listens_to_jobs:
            connection.send("SUBSCRIBE", {"destination": "/job/control", "id": JOB_CONTROL, "ack": "auto"})
            connection.listens_to_jobs = True

    def _answer(self, destination: str, body: Body, headers: Mapping[str, str], durable: bool) -> None:
        deadline = self._deadline(None)
        if durable:
            self._send(destination, body, {**headers, "persistent": "true"}, deadline)
            return
        data, content_type = content.encode(body)
        try:
            self._open(deadline).send(
                "SEND", {"content-type": content_type, **headers, "destination": destination}, data
            )
        except NotSent:
            logger.debug("progress was lost with the connection")

    # In the reading thread of a connection:

    def _on_message(self, connection: Connection, headers: dict[str, str], data: bytes) -> None:
        if headers.get("subscription") == JOB_CONTROL:
            over = headers.get("job-event") == "over"
            told = Told(headers.get("job-attempt", ""), over, headers.get("reason", "cancelled"))
            connection.told[headers.get("job-id", "")] = told
            return
        told_of = partial(_told_of, connection, headers.get("job-attempt", ""))
        message = Message(headers.get("destination", ""), headers, data, self._answer, told_of)
        consumer = self._consumers.get(headers.get("subscription", ""))
        if consumer is None:
            call = self._calls.get(headers.get("correlation-id", ""))
            if call is not None:  # else a late reply: its asker has given up
                call.news.put(message)
            return
        if consumer.is_topic:
            if consumer.waiting >= TOPIC_BACKLOG:
                consumer.dropped += 1
                if consumer.dropped == 1:
                    logger.warning("%s comes faster than its handler works: messages are dropped", consumer.destination)
                return
            consumer.waiting += 1
        self._deliveries.put(_Delivery(connection, consumer, message))

    def _on_lost(self, connection: Connection) -> None:
        for call in list(self._calls.values()):
            call.news.put(connection)
        self._deliveries.put(None)
