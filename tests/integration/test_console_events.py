"""The event stream, driven as the ASGI application that it is, on a real Postgres with real notifications."""

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from psycopg import sql

from apps.accounts.models import Namespace
from apps.broker import outbox
from apps.console import events as stream
from apps.console import feed as feeds
from apps.console.tokens import stream_path, stream_token
from apps.jobs import channels, control
from apps.jobs.ending import finish, locked, note
from apps.jobs.models import Event, Job
from tests import sample_tasks

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = 20.0  # a deadline for a loaded machine, not an expectation


class Sent(NamedTuple):
    """One event as a browser sees it."""

    name: str
    data: dict[str, Any]
    id: int | None


class Browser:
    """The other end of an event stream: what it got, and the means to wait for it."""

    def __init__(self, path: str, headers: list[tuple[bytes, bytes]], query: bytes) -> None:
        self.scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": query,
            "headers": headers,
        }
        self.status: int | None = None
        self.events: list[Sent] = []
        self.body = b""
        self.ended = False
        self.taking = asyncio.Event()
        self.taking.set()
        self._news = asyncio.Event()
        self._gone = asyncio.Event()
        self._asked = False

    async def receive(self) -> dict[str, Any]:
        """ASGI's receive: the request, and once the browser has left, that it has."""
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """ASGI's send; waits while the browser takes nothing."""
        await self.taking.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")
            self.ended = not message.get("more_body", False)
            self._parse()
        self._news.set()

    def _parse(self) -> None:
        self.events = []
        for block in self.body.decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "event" in fields:
                event_id = int(fields["id"]) if "id" in fields else None
                self.events.append(Sent(fields["event"], json.loads(fields["data"]), event_id))

    def leave(self) -> None:
        """Go away."""
        self._gone.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something to be sent."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._news.clear()
                if not condition():
                    await self._news.wait()

    def named(self, name: str) -> list[Sent]:
        """The events of that name, so far."""
        return [event for event in self.events if event.name == name]


@asynccontextmanager
async def browsing(path: str, *, last_event_id: int | None = None, query: str = "") -> Any:
    """A browser on a stream; the stream must end with it."""
    headers = [] if last_event_id is None else [(b"last-event-id", str(last_event_id).encode())]
    browser = Browser(path, headers, query.encode())
    task = asyncio.create_task(stream.event_stream(browser.scope, browser.receive, browser.send))
    try:
        yield browser
    finally:
        browser.leave()
        browser.taking.set()
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(task, return_exceptions=False)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine, and close what its threads opened."""

    async def whole() -> None:
        try:
            await test
        finally:
            await sync_to_async(connections.close_all)()

    asyncio.run(whole())


def job_here() -> Job:
    """A job in a namespace of its own."""
    namespace = Namespace.objects.create(name=f"samples.t{uuid.uuid4().hex}").name
    return sample_tasks.add.enqueue(namespace=namespace, a=1)


def say(job: Job, *lines: str) -> list[int]:
    """Add lines to a job's log, each in a transaction of its own; the ids of the events."""
    ids = []
    for line in lines:
        note(job, Event.Kind.LOG, {"level": "info", "text": line})
        ids.append(Event.objects.filter(job=job).latest("id").id)
    return ids


def succeed(job: Job) -> None:
    """End a job."""
    finish(job, "succeeded", result='{"sum": 2}')


def path_of(job: Job) -> str:
    return stream_path("job", str(job.id))


@pytest.fixture
def job() -> Job:
    return job_here()


@contextmanager
def polling_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A database behind a pooler that eats notifications: LISTEN on a channel that nobody notifies."""
    monkeypatch.setattr(channels, "EVENTS", "nobody_notifies_this")
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.1)
    yield
    monkeypatch.undo()


def test_events_come_as_they_happen_and_the_stream_ends_with_the_job(job: Job) -> None:
    async def test() -> None:
        async with browsing(path_of(job)) as browser:
            await browser.until(lambda: browser.named("state"))
            assert browser.status == 200
            await sync_to_async(say)(job, "one")
            await browser.until(lambda: browser.named("log"))
            await sync_to_async(note)(job, Event.Kind.PROGRESS, {"done": 1, "total": 3, "text": "adding"})
            await browser.until(lambda: browser.named("progress"))
            await sync_to_async(succeed)(job)
            await browser.until(lambda: browser.ended)
        assert [(event.name, event.data.get("state")) for event in browser.events] == [
            ("state", "ready"),
            ("log", None),
            ("progress", None),
            ("state", "succeeded"),
            ("end", "succeeded"),
        ]
        assert browser.named("log")[0].data["text"] == "one"
        assert browser.named("progress")[0].data["done"] == 1

    run(test())


def test_a_reader_resumes_after_the_last_event_that_it_saw(job: Job) -> None:
    async def test() -> None:
        first, second, third = await sync_to_async(say)(job, "one", "two", "three")
        async with browsing(path_of(job), last_event_id=second) as browser:
            await browser.until(lambda: browser.events)
        assert [(event.id, event.data["text"]) for event in browser.events] == [(third, "three")]
        async with browsing(path_of(job), query=f"after={first}") as browser:
            await browser.until(lambda: len(browser.events) == 2)
        assert [event.data["text"] for event in browser.events] == ["two", "three"]

    run(test())


def test_the_last_event_id_counts_more_than_the_one_in_the_address(job: Job) -> None:
    async def test() -> None:
        first, second = await sync_to_async(say)(job, "one", "two")
        async with browsing(path_of(job), last_event_id=first, query="after=0") as browser:
            await browser.until(lambda: browser.events)
        assert [event.id for event in browser.events] == [second]

    run(test())


def test_what_happened_while_the_connection_was_lost_is_sent_after_it(job: Job, conninfo: str) -> None:
    """The LISTEN connection is killed, an event is committed while there is none, and it arrives all the same."""

    async def test() -> None:
        async with browsing(path_of(job)) as browser:
            feed = feeds.feed_of_loop()
            await browser.until(lambda: browser.named("state"))
            await asyncio.wait_for(feed.listening.wait(), SECONDS)
            killed = await sync_to_async(kill_listeners)(conninfo)
            assert killed == 1
            await sync_to_async(say)(job, "in between")
            await browser.until(lambda: browser.named("log"))
            await asyncio.wait_for(feed.listening.wait(), SECONDS)
            await sync_to_async(say)(job, "after it")
            await browser.until(lambda: len(browser.named("log")) == 2)

    run(test())


def kill_listeners(conninfo: str) -> int:
    """End the connections that listen for events of jobs."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        rows = connection.execute(
            sql.SQL(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE {} AND pid <> pg_backend_pid()"
            ).format(sql.Literal(f'LISTEN "{channels.EVENTS}"%'))
        ).fetchall()
    return len(rows)


def test_the_poll_finds_what_no_notification_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with browsing(path_of(job)) as browser:
            await browser.until(lambda: browser.named("state"))
            await sync_to_async(say)(job, "unheard")
            await browser.until(lambda: browser.named("log"))

    with polling_only(monkeypatch):
        run(test())


def test_several_readers_of_a_job_share_one_connection_and_their_reads(job: Job, conninfo: str) -> None:
    async def test() -> None:
        path = path_of(job)
        async with browsing(path) as one, browsing(path) as two, browsing(path) as three:
            for browser in (one, two, three):
                await browser.until(lambda browser=browser: browser.named("state"))
            await sync_to_async(say)(job, "to all")
            for browser in (one, two, three):
                await browser.until(lambda browser=browser: browser.named("log"))
            assert await sync_to_async(listeners)(conninfo) == 1
        assert await sync_to_async(listeners)(conninfo) == 0

    run(test())


def listeners(conninfo: str) -> int:
    """How many connections listen for events of jobs."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE %s",
            [f'LISTEN "{channels.EVENTS}"%'],
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_read_that_began_before_an_event_is_not_taken_for_one_after_it(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that is woken while another's read is under way must not be content with that one."""
    began, go_on = threading.Event(), threading.Event()
    read = feeds.events.after

    def slow(*args: Any) -> list[Event]:
        found = read(*args)
        if not began.is_set():
            began.set()
            assert go_on.wait(SECONDS)
        return found

    async def test() -> None:
        feed = feeds.feed_of_loop()
        async with feed.watch(job.id) as watch:
            await asyncio.wait_for(feed.listening.wait(), SECONDS)
            watch.woken.clear()
            early = asyncio.create_task(feed.read(job.id, 0))
            assert await asyncio.to_thread(began.wait, SECONDS)
            await sync_to_async(say)(job, "meanwhile")
            assert await watch.wait(SECONDS)
            late = asyncio.create_task(feed.read(job.id, 0))
            go_on.set()
            assert [event.kind for event in (await early).events] == ["state"]
            assert [event.kind for event in (await late).events] == ["state", "log"]

    monkeypatch.setattr(feeds.events, "after", slow)
    run(test())


def test_a_slow_reader_gets_everything_in_the_end_and_holds_nobody_up(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "BATCH", 3)

    async def test() -> None:
        path = path_of(job)
        async with browsing(path) as slow, browsing(path) as quick:
            await slow.until(lambda: slow.named("state"))
            slow.taking.clear()
            lines = [f"line {number}" for number in range(20)]
            await sync_to_async(say)(job, *lines)
            await quick.until(lambda: len(quick.named("log")) == 20)
            assert len(slow.named("log")) < 20
            slow.taking.set()
            await slow.until(lambda: len(slow.named("log")) == 20)
            assert [event.data["text"] for event in slow.named("log")] == lines

    run(test())


def test_a_reader_that_takes_nothing_for_too_long_is_let_go(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "WRITE_SECONDS", 0.05)

    async def test() -> None:
        browser = Browser(path_of(job), [], b"")
        task = asyncio.create_task(stream.event_stream(browser.scope, browser.receive, browser.send))
        await browser.until(lambda: browser.named("state"))
        browser.taking.clear()
        await sync_to_async(say)(job, "nobody takes this")
        await asyncio.wait_for(task, SECONDS)
        assert not browser.ended

    run(test())


def test_silence_is_broken_by_a_comment(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_SECONDS", 0.05)

    async def test() -> None:
        async with browsing(path_of(job)) as browser:
            await browser.until(lambda: b": ping" in browser.body)

    run(test())


def test_the_stream_of_a_job_that_has_ended_tells_it_all_and_ends(job: Job) -> None:
    succeed(job)

    async def test() -> None:
        async with browsing(path_of(job)) as browser:
            await browser.until(lambda: browser.ended)
        assert [event.name for event in browser.events] == ["state", "state", "end"]

    run(test())


def test_an_asked_cancel_reaches_the_reader(job: Job) -> None:
    async def test() -> None:
        async with browsing(path_of(job)) as browser:
            await browser.until(lambda: browser.named("state"))
            await sync_to_async(control.cancel)(job.id, by="a test")
            await browser.until(lambda: browser.ended)
        assert browser.named("end")[0].data == {"state": "cancelled"}

    run(test())


def test_the_person_who_waits_hears_neither_log_nor_reasons(job: Job) -> None:
    async def test() -> None:
        async with browsing(stream_path("status", str(job.id))) as browser:
            await browser.until(lambda: browser.named("state"))
            await sync_to_async(say)(job, "a secret")
            await sync_to_async(note)(job, Event.Kind.PROGRESS, {"done": 1, "total": 3, "text": "adding"})
            await sync_to_async(fail)(job)
            await browser.until(lambda: browser.ended)
        assert [event.name for event in browser.events] == ["state", "progress", "state", "end"]
        assert set(browser.named("state")[-1].data) == {"at", "state"}
        assert b"secret" not in browser.body

    run(test())


def fail(job: Job) -> None:
    """End a job with an error."""
    finish(locked_job(job), "failed", error={"code": "no", "message": "a secret", "traceback": ""})


def locked_job(job: Job) -> Job:
    from django.db import transaction

    with transaction.atomic():
        return locked(job.id)


def test_an_old_token_asks_the_page_to_load_itself_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    grant_of = stream.grant_of
    monkeypatch.setattr(stream, "grant_of", lambda kind, token: grant_of(kind, token, lifetime=-1))

    async def test() -> None:
        async with browsing(path_of(job)) as browser:
            await browser.until(lambda: browser.ended)
        assert browser.status == 200
        assert [event.name for event in browser.events] == ["expired"]

    run(test())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (lambda: "/events/job/not-a-token", 403),
        (lambda: f"/events/topic/{stream_token('job', str(uuid.uuid4()))}", 403),
        (lambda: stream_path("job", str(uuid.uuid4())), 404),
        (lambda: "/events/other/x", 404),
        (lambda: "/events", 404),
    ],
)
def test_what_is_no_stream_is_refused_with_problem_details(path: Callable[[], str], status: int) -> None:
    async def test() -> None:
        async with browsing(path()) as browser:
            await browser.until(lambda: browser.ended)
        assert browser.status == status
        assert json.loads(browser.body)["status"] == status

    run(test())


def test_a_process_that_ends_ends_its_streams(job: Job) -> None:
    async def test() -> None:
        async with browsing(path_of(job)) as browser, browsing(topic_path()) as topic:
            await browser.until(lambda: browser.named("state"))
            await topic.until(lambda: topic.named("listening"))
            stream.close_streams()
            await browser.until(lambda: browser.ended)
            await topic.until(lambda: topic.ended)
        assert not browser.named("end")  # the job has not ended: the browser connects again

    run(test())


def test_a_process_that_ends_does_not_wait_for_a_reader_that_takes_nothing(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CLOSE_SECONDS", 0.05)

    async def test() -> None:
        browser = Browser(path_of(job), [], b"")
        task = asyncio.create_task(stream.event_stream(browser.scope, browser.receive, browser.send))
        await browser.until(lambda: browser.named("state"))
        browser.taking.clear()
        await sync_to_async(say)(job, "nobody takes this")
        stream.close_streams()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, SECONDS)

    run(test())


# -- topics

NAMESPACE = "samples.topics"


def topic_path() -> str:
    return stream_path("topic", "news", NAMESPACE)


def publish(body: bytes, **headers: str) -> None:
    """Publish in a transaction of Django's."""
    outbox.send(NAMESPACE, "/topic/news", body, headers=headers)


@pytest.fixture
def topic() -> None:
    Namespace.objects.create(name=NAMESPACE)


@pytest.mark.usefixtures("topic")
def test_what_is_published_on_a_topic_reaches_every_reader() -> None:
    async def test() -> None:
        async with browsing(topic_path()) as one, browsing(topic_path()) as two:
            for browser in (one, two):
                await browser.until(lambda browser=browser: browser.named("listening"))
            await heard(lambda: publish(b'{"id": 7}', kind="order"), one)
            await two.until(lambda: two.named("message"))
            message = one.named("message")[0].data
            assert message["body"] == '{"id": 7}'
            assert message["destination"] == "/topic/news"
            assert message["headers"]["kind"] == "order"
            await heard(lambda: publish(b"\xff\x00"), one)
            assert one.named("message")[-1].data["body_base64"] == "/wA="

    run(test())


async def heard(act: Callable[[], None], browser: Browser) -> None:
    """Publish until it is heard: a topic is best effort, and its subscription may take effect after `listening`."""
    before = len(browser.named("message"))
    for _ in range(50):
        await sync_to_async(act)()
        try:
            async with asyncio.timeout(1):
                await browser.until(lambda: len(browser.named("message")) > before)
        except TimeoutError:
            continue
        return
    raise AssertionError("nothing was heard")


@pytest.mark.usefixtures("topic")
def test_a_reader_that_is_too_slow_for_a_topic_is_told_how_much_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    from apps.broker.engine import Address, Delivery, MessageId, Subscription
    from apps.console.topics import RING, Hub, Listener

    hub = Hub()
    listener = Listener(hub)
    address = Address(NAMESPACE, "topic", "news")
    subscription = Subscription(address, hub, RING)
    deliveries = [Delivery(MessageId(0), address, b"", str(n).encode(), False, 1) for n in range(RING + 10)]
    hub.deliver(subscription, deliveries)
    got, missed = listener.take()
    assert missed == 10
    assert [delivery.body for delivery in got] == [delivery.body for delivery in deliveries[10:]]
    assert listener.take() == ([], 0)


@pytest.mark.usefixtures("topic")
def test_the_last_reader_of_a_topic_ends_the_session(conninfo: str) -> None:
    def sessions() -> int:
        with psycopg.connect(conninfo) as connection:
            row = connection.execute("SELECT count(*) FROM msgweb.session WHERE kind = 'web'").fetchone()
        assert row is not None
        return int(row[0])

    async def test() -> None:
        async with browsing(topic_path()) as browser:
            await browser.until(lambda: browser.named("listening"))
            assert await sync_to_async(sessions)() == 1
        assert await sync_to_async(sessions)() == 0

    run(test())


# -- the long poll of the REST API stands on the same feed


def test_whoever_waits_for_a_job_is_woken_by_its_end(job: Job) -> None:
    async def test() -> None:
        waiting = asyncio.create_task(feeds.feed_of_loop().wait_final(job.id, SECONDS))
        await asyncio.wait_for(feeds.feed_of_loop().listening.wait(), SECONDS)
        assert not waiting.done()
        await sync_to_async(succeed)(job)
        await asyncio.wait_for(waiting, SECONDS / 2)

    run(test())


def test_waiting_ends_when_the_time_is_over(job: Job) -> None:
    async def test() -> None:
        await asyncio.wait_for(feeds.feed_of_loop().wait_final(job.id, 0.05), SECONDS)

    run(test())


def test_no_thread_is_held_by_an_open_stream(job: Job) -> None:
    async def test() -> None:
        async with browsing(path_of(job)) as first:
            await first.until(lambda: first.named("state"))
            before = threading.active_count()
            browsers = [browsing(path_of(job)) for _ in range(20)]
            opened: list[Browser] = [await browser.__aenter__() for browser in browsers]
            for browser in opened:
                await browser.until(lambda browser=browser: browser.named("state"))
            assert threading.active_count() == before
            for context in browsers:
                await context.__aexit__(None, None, None)

    run(test())
