"""Django's Tasks API on our backend, on whichever Django is installed."""

import asyncio
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import override_settings
from django.utils import timezone

from apps.accounts.models import Namespace
from apps.jobs import django_tasks, events, registry, tasks_api, testing
from apps.jobs.backend import MsgwebBackend, broker_priority
from apps.jobs.errors import BadTask, UnknownTask
from apps.jobs.models import Job
from msgweb.errors import LimitExceeded
from tests import sample_django_tasks as samples

pytestmark = pytest.mark.django_db(transaction=True)
Status = tasks_api.TaskResultStatus


def one(result: Any) -> Job:
    return Job.objects.get(id=result.id)


def test_a_backend_of_the_first_class() -> None:
    backend = tasks_api.task_backends["default"]
    assert isinstance(backend, MsgwebBackend)
    assert backend.supports_defer
    assert backend.supports_async_task
    assert backend.supports_get_result
    assert backend.supports_priority
    assert list(backend.check()) == []


# Enqueue


def test_a_task_is_a_job_and_its_result_tells_of_it() -> None:
    result = samples.double.enqueue(21)
    assert result.status == Status.READY
    assert not result.is_finished
    assert (result.args, result.kwargs, result.attempts) == ([21], {}, 0)
    assert result.started_at is result.finished_at is result.last_attempted_at is None
    assert result.enqueued_at is not None
    assert abs(result.enqueued_at - timezone.now()) < timedelta(minutes=1)
    with pytest.raises(ValueError):
        _ = result.return_value
    job = one(result)
    assert (job.namespace, job.task, job.queue) == ("django.tasks", "tests.sample_django_tasks.double", "default")
    assert [done.state for done in testing.run_due()] == ["succeeded"]
    assert result.status == Status.READY
    result.refresh()
    assert result.status == Status.SUCCESSFUL
    assert result.is_finished
    assert result.return_value == 42
    assert result.attempts == 1
    assert result.errors == []
    assert len(result.worker_ids) == 1
    assert len(result.worker_ids[0]) <= 64
    assert result.enqueued_at <= result.started_at == result.last_attempted_at <= result.finished_at


def test_the_result_is_found_by_its_id_and_by_its_task_alone() -> None:
    result = samples.double.enqueue(1)
    assert samples.double.get_result(result.id) == result
    assert tasks_api.task_backends["default"].get_result(result.id) == result
    for unknown in (str(uuid.uuid4()), "nonsense", ""):
        with pytest.raises(tasks_api.TaskResultDoesNotExist):
            samples.double.get_result(unknown)
    with pytest.raises(Exception, match="does not match"):
        samples.echo.get_result(result.id)


def test_a_job_of_another_kind_is_no_result(transactional_db: None) -> None:
    from tests import sample_tasks

    Namespace.objects.create(name="samples.here")
    job = sample_tasks.add.enqueue(namespace="samples.here", a=1)
    with pytest.raises(tasks_api.TaskResultDoesNotExist):
        samples.double.get_result(str(job.id))


def test_arguments_arrive_as_json_has_them() -> None:
    result = samples.echo.enqueue(1, "ä", None, [1, (2, 3)], name={"deep": {"deeper": 1.5}}, flag=True)
    (job,) = testing.run_due()
    expected = {"args": [1, "ä", None, [1, [2, 3]]], "kwargs": {"name": {"deep": {"deeper": 1.5}}, "flag": True}}
    assert job.result == expected
    result.refresh()
    assert result.return_value == expected
    assert (result.args, result.kwargs) == (expected["args"], expected["kwargs"])
    again = samples.echo.get_result(result.id)
    assert (again.task.priority, again.task.queue_name, again.backend) == (10, "mails", "default")


@pytest.mark.parametrize("nonsense", [object(), {1, 2}, datetime(2026, 1, 1, tzinfo=UTC), timezone])
def test_arguments_that_are_no_json_are_refused(nonsense: Any) -> None:
    with pytest.raises(TypeError):
        samples.echo.enqueue(nonsense)
    with pytest.raises(TypeError):
        samples.echo.enqueue(key=nonsense)
    assert not Job.objects.exists()


def test_arguments_that_are_too_large_are_refused() -> None:
    with pytest.raises(LimitExceeded):
        samples.echo.enqueue("x" * registry.ARGUMENTS_LIMIT)


def test_enqueued_in_a_transaction_that_is_rolled_back_it_never_was() -> None:
    samples.double.enqueue(0)  # the namespace is there now
    with transaction.atomic():
        result = samples.double.enqueue(1)
        assert samples.double.get_result(result.id).status == Status.READY
        transaction.set_rollback(True)
    with pytest.raises(tasks_api.TaskResultDoesNotExist):
        samples.double.get_result(result.id)


def test_the_namespace_is_made_when_it_is_first_needed_within_a_transaction_too() -> None:
    options = {"namespace": f"tasks.t{uuid.uuid4().hex}"}
    tasks = {"default": {"BACKEND": "apps.jobs.backend.MsgwebBackend", "OPTIONS": options}}
    with override_settings(TASKS=tasks), transaction.atomic():
        samples.double.enqueue(1)
        assert Namespace.objects.get().name == options["namespace"]


def test_one_statement_enqueues(django_assert_num_queries: Any) -> None:
    samples.double.enqueue(0)
    with django_assert_num_queries(1):
        samples.double.enqueue(1)


# Priority, later, queues


def test_priorities_keep_their_order() -> None:
    assert [broker_priority(p) for p in (-100, -1, 0, 1, 100)] == [0, 4, 4, 5, 9]
    assert sorted(range(-100, 101), key=broker_priority) == list(range(-100, 101))
    low, usual, high = (samples.double.using(priority=p).enqueue(1) for p in (-50, 0, 50))
    assert [str(job.id) for job in testing.run_due()] == [high.id, usual.id, low.id]
    assert samples.double.get_result(low.id).task.priority == -50


def test_a_task_that_runs_later_is_ready_then() -> None:
    later = timezone.now() + timedelta(hours=1)
    result = samples.double.using(run_after=later).enqueue(3)
    assert result.status == Status.READY
    assert one(result).state == "scheduled"
    assert testing.run_due() == []
    assert samples.double.get_result(result.id).task.run_after == later
    testing.advance(3601)
    testing.run_due()
    result.refresh()
    assert result.return_value == 6


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(Exception, match="aware"):
        samples.double.using(run_after=datetime(2030, 1, 1)).enqueue(1)  # noqa: DTZ001


def test_workers_serve_the_queues_that_the_settings_name() -> None:
    assert "default" in registry.queues()
    tasks = {"default": {"BACKEND": "apps.jobs.backend.MsgwebBackend", "QUEUES": ["mails", "default"]}}
    with override_settings(TASKS=tasks):
        assert "mails" in registry.queues()
        assert samples.echo.enqueue().task.queue_name == "mails"
        with pytest.raises(Exception, match="'other' is not valid"):
            samples.double.using(queue_name="other")


# How it ends


def test_an_exception_is_the_results_error() -> None:
    result = samples.fails.enqueue("broken")
    (job,) = testing.run_due()
    assert job.state == "failed"
    result.refresh()
    assert result.status == Status.FAILED
    assert result.is_finished
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value
    (error,) = result.errors
    assert error.exception_class is ValueError
    assert "ValueError: broken" in error.traceback
    assert "def fails" not in error.traceback
    assert "in fails" in error.traceback


def test_a_result_that_is_no_json_is_a_failure() -> None:
    result = samples.returns_nonsense.enqueue()
    testing.run_due()
    result.refresh()
    assert result.status == Status.FAILED
    assert result.errors[0].exception_class is TypeError


def test_each_attempt_has_its_error_and_its_worker() -> None:
    result = samples.stubborn.enqueue(3)
    job = one(result)
    assert (job.max_attempts, job.timeout, job.priority) == (3, 30, 7)
    for attempt in (1, 2):
        testing.run_due()
        result.refresh()
        assert (result.status, result.attempts, len(result.errors)) == (Status.READY, attempt, attempt)
        assert one(result).state == "waiting"
        testing.advance(11)
    testing.run_due()
    result.refresh()
    assert result.status == Status.SUCCESSFUL
    assert result.return_value == 3
    assert len(result.worker_ids) == 3
    assert [error.exception_class for error in result.errors] == [ConnectionError] * 2
    assert result.started_at < result.last_attempted_at
    assert one(result).progress.text == "trying"


def test_a_cancelled_or_expired_job_has_failed_and_says_why() -> None:
    from apps.jobs import control

    result = samples.double.enqueue(1)
    control.cancel(uuid.UUID(result.id), "the test")
    result.refresh()
    assert result.status == Status.FAILED
    assert result.errors[0].exception_class_path == "apps.jobs.context.JobCancelled"
    assert issubclass(result.errors[0].exception_class, BaseException)


def test_a_coroutine_is_a_task_like_any_other() -> None:
    result = samples.asleep.enqueue(5)
    testing.run_due()
    result.refresh()
    assert result.return_value == 5


def test_a_task_may_take_the_context() -> None:
    result = samples.attempts.enqueue("z")
    testing.run_due()
    result.refresh()
    assert result.return_value == f"1 {result.id} z"


def test_a_task_that_is_no_longer_there_fails_and_is_not_tried_again() -> None:
    result = samples.double.enqueue(1)
    Job.objects.filter(id=result.id).update(task="tests.sample_django_tasks.gone", max_attempts=5)
    (job,) = testing.run_due()
    assert (job.state, job.error["code"]) == ("failed", "unknown_task")
    for path in ("tests.sample_django_tasks.gone", "os.system", "no.such.module", "nodots"):
        with pytest.raises(UnknownTask):
            django_tasks.load(path)


# Async


def test_enqueued_by_a_coroutine_without_a_thread() -> None:
    threads: list[Any] = []

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.run_in_executor = lambda *call: threads.append(call)  # type: ignore[method-assign, assignment]
        results = await asyncio.gather(*(samples.double.aenqueue(n) for n in range(5)))
        found = await samples.double.aget_result(results[3].id)
        assert found == results[3]
        with pytest.raises(tasks_api.TaskResultDoesNotExist):
            await samples.double.aget_result(str(uuid.uuid4()))
        return found

    found = asyncio.run(main())
    assert threads == []
    assert Job.objects.count() == 5
    testing.run_due()

    async def look() -> Any:
        await found.arefresh()
        return found.return_value

    assert asyncio.run(look()) == 6


def test_a_coroutine_goes_on_after_its_connection_broke(conninfo: str) -> None:
    async def main() -> None:
        await samples.double.aenqueue(1)
        from apps.jobs import async_connection

        line = async_connection._lines[asyncio.get_running_loop()]
        async with line.lock:
            pid = (await line.connected()).info.backend_pid
        import psycopg

        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as killer:
            await killer.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        with pytest.raises(Exception, match="database is away"):
            await samples.double.aenqueue(2)
        await samples.double.aenqueue(3)

    asyncio.run(main())
    assert [job.arguments["args"] for job in Job.objects.order_by("created_at")] == [[1], [3]]


# Signals


@pytest.fixture
def heard() -> Any:
    heard: list[tuple[str, Any, str, Any]] = []

    def receiver(name: str) -> Any:
        def receive(sender: Any, task_result: Any, **_: Any) -> None:
            import sys

            heard.append((name, sender, task_result.status, sys.exc_info()[0]))

        return receive

    receivers = [(getattr(tasks_api.signals, f"task_{name}"), receiver(name)) for name in ("enqueued", "started")]
    receivers.append((tasks_api.signals.task_finished, receiver("finished")))
    for signal, receive in receivers:
        signal.connect(receive)
    yield heard
    for signal, receive in receivers:
        signal.disconnect(receive)


def test_signals_are_sent_by_the_backends_class(heard: Any) -> None:
    samples.double.enqueue(1)
    assert heard == [("enqueued", MsgwebBackend, Status.READY, None)]
    testing.run_due()
    assert heard[1:] == [
        ("started", MsgwebBackend, Status.RUNNING, None),
        ("finished", MsgwebBackend, Status.SUCCESSFUL, None),
    ]
    asyncio.run(samples.double.aenqueue(1))
    assert heard[3:] == [("enqueued", MsgwebBackend, Status.READY, None)]


def test_the_end_is_told_once_and_within_the_exception(heard: Any) -> None:
    samples.stubborn.enqueue(9)
    for _ in range(3):
        testing.run_due()
        testing.advance(11)
    assert [event[0] for event in heard] == ["enqueued", "started", "started", "started", "finished"]
    assert heard[-1] == ("finished", MsgwebBackend, Status.FAILED, ConnectionError)


# Our options over theirs


def test_unique_and_limited_by_the_names_of_parameters() -> None:
    first = samples.once_for_each.enqueue(1, "a")
    assert samples.once_for_each.enqueue(customer=1, text="b").id == first.id
    second = samples.once_for_each.enqueue(2)
    assert one(second).limits == {"key": "django.tasks mail 2", "limit": 1}


def test_an_option_that_cannot_be_is_refused_at_import_with_file_and_line() -> None:
    line = samples.double.func.__code__.co_firstlineno
    where = f"{re.escape(samples.__file__)}:{line}: "
    with pytest.raises(BadTask, match=where):
        django_tasks.task_options(max_attempts=0)(samples.double)
    with pytest.raises(BadTask, match=where):
        django_tasks.task_options(unique={"by": "n"})(samples.double)

    def plain() -> None: ...

    with pytest.raises(BadTask, match=f"{re.escape(__file__)}:"):
        django_tasks.task_options(max_attempts=2)(plain)


# Settings


@pytest.mark.parametrize(
    ("params", "wrong"),
    [
        ({"OPTIONS": {"namespace": "no namespace"}}, "jobs.E004"),
        ({"OPTIONS": {"name_space": "a.b"}}, "jobs.E003"),
        ({"QUEUES": ["/topic/x"]}, "jobs.E005"),
        ({"QUEUES": [""]}, "jobs.E005"),
    ],
)
def test_a_wrong_setting_is_found_by_check(params: dict[str, Any], wrong: str) -> None:
    assert [message.id for message in MsgwebBackend("default", params).check()] == [wrong]


def test_the_namespace_is_a_setting() -> None:
    options = {"namespace": "shop.test"}
    with override_settings(TASKS={"default": {"BACKEND": "apps.jobs.backend.MsgwebBackend", "OPTIONS": options}}):
        result = samples.double.enqueue(1)
    assert one(result).namespace == "shop.test"


def test_an_event_tells_of_each_state() -> None:
    result = samples.double.enqueue(1)
    testing.run_due()
    states = [event.data["state"] for event in events.states(uuid.UUID(result.id))]
    assert states == ["ready", "running", "succeeded"]
    assert connection.vendor == "postgresql"


def test_what_happens_to_a_task_is_logged_with_its_exception(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger=tasks_api.PACKAGE)
    good, bad = samples.double.enqueue(1), samples.fails.enqueue()
    testing.run_due()
    said = [
        (record.levelname, record.getMessage(), bool(record.exc_info and record.exc_info[0]))
        for record in caplog.records
    ]
    path = "path=tests.sample_django_tasks"
    assert ("DEBUG", f"Task id={good.id} {path}.double enqueued backend=default", False) in said
    assert ("INFO", f"Task id={good.id} {path}.double state=RUNNING", False) in said
    assert ("INFO", f"Task id={good.id} {path}.double state=SUCCESSFUL", False) in said
    assert ("ERROR", f"Task id={bad.id} {path}.fails state=FAILED", True) in said


def test_an_exception_of_any_shape_is_kept() -> None:
    result = samples.fails_oddly.enqueue()
    testing.run_due()
    result.refresh()
    (error,) = result.errors
    assert error.exception_class_path == "tests.sample_django_tasks.Outer.Odd"
    assert "Odd" in error.traceback


def test_a_function_that_cannot_be_found_again_is_no_task() -> None:
    from tests.sample_django_tasks import task

    def local() -> None: ...

    for function in (local, len):
        with pytest.raises(Exception, match="module level"):
            task(function)
    for priority in (-101, 101, 1.5):
        with pytest.raises(Exception, match="priority must be"):
            samples.double.using(priority=priority)  # type: ignore[arg-type]
