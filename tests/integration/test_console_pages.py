"""The console's pages, with data, without, and for those who may not."""

import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import AsyncClient, Client
from django.utils import timezone

from apps.accounts.models import Namespace
from apps.broker import catalogue, outbox
from apps.console import health, job_pages
from apps.console.security import POLICY
from apps.jobs import schedules
from apps.jobs.ending import finish, note
from apps.jobs.links import status_path
from apps.jobs.models import Attempt, Event, Job, Progress, Schedule
from tests import sample_tasks

pytestmark = pytest.mark.django_db

NAMESPACE = "samples.pages"
PAGES = ["/", "/jobs/", "/queues/", "/topics/", "/workers/"]


@pytest.fixture
def namespace() -> str:
    return Namespace.objects.create(name=NAMESPACE).name


@pytest.fixture
def job(namespace: str) -> Job:
    return sample_tasks.add.enqueue(namespace=namespace, a=1)


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(get_user_model().objects.create_superuser("ada", password="x"))
    return client


@pytest.fixture
def reader(client: Client) -> Client:
    """Somebody who may look, and no more."""
    client.force_login(get_user_model().objects.create_user("rita", password="x"))
    return client


def text(client: Client, path: str, **headers: Any) -> str:
    """The page, which must be there."""
    response = client.get(path, headers=headers)
    assert response.status_code == 200, path
    return response.content.decode()


def run(job: Job, lines: int = 2) -> Job:
    """The job as if a worker had begun with it."""
    job.state, job.attempt, job.started_at = Job.State.RUNNING, 1, timezone.now()
    job.save()
    Attempt.objects.create(job=job, number=1, host="atlas", pid=4711)
    Progress.objects.create(job=job, done=3, total=12, text="adding up")
    for number in range(lines):
        note(job, Event.Kind.LOG, {"level": "info", "text": f"line {number}"})
    return job


@pytest.mark.parametrize("path", [*PAGES, f"/jobs/{uuid.UUID(int=4)}/", f"/jobs/{uuid.UUID(int=4)}/log.txt"])
def test_a_stranger_is_asked_to_log_in(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 302
    assert response["Location"] == f"/login/?next={path}"


@pytest.mark.parametrize("path", PAGES)
def test_an_empty_installation_has_pages_too(admin: Client, path: str) -> None:
    assert "<h1>" in text(admin, path)


@pytest.mark.parametrize("path", PAGES)
def test_what_refreshes_itself_comes_without_the_page_around_it(admin: Client, job: Job, path: str) -> None:
    part = text(admin, path, HX_Request="true")
    assert "<html" not in part
    assert part.strip() in text(admin, path) or "ago" in part  # ages may differ by a second


def test_logging_in_with_the_right_password_leads_to_the_overview(client: Client) -> None:
    get_user_model().objects.create_user("ada", password="right", is_staff=True)
    wrong = client.post("/login/", {"username": "ada", "password": "wrong"})
    assert "is wrong" in wrong.content.decode()
    right = client.post("/login/", {"username": "ada", "password": "right"})
    assert right["Location"] == "/"
    assert client.post("/logout/")["Location"] == "/login/"
    assert client.get("/").status_code == 302


def test_who_is_not_staff_does_not_come_in(client: Client) -> None:
    get_user_model().objects.create_user("till", password="right")
    answer = client.post("/login/", {"username": "till", "password": "right"})
    assert "is wrong" in answer.content.decode()
    assert client.get("/").status_code == 302


def test_logging_in_leads_nowhere_else(client: Client) -> None:
    get_user_model().objects.create_user("ada", password="right", is_staff=True)
    response = client.post("/login/", {"username": "ada", "password": "right", "next": "https://evil.example/"})
    assert response["Location"] == "/"


def test_the_overview_shows_what_there_is(admin: Client, job: Job) -> None:
    run(job)
    outbox.send(NAMESPACE, "/queue/letters", "x")
    page = text(admin, "/")
    assert f'href="/jobs/{job.id}/"' in page
    assert "25 %" in page
    assert "letters" in page
    assert "No worker is alive" in page


def test_queues_are_shown_with_their_figures(admin: Client, namespace: str) -> None:
    for _ in range(3):
        outbox.send(namespace, "/queue/letters", "x")
    row = re.search(r"<tr>\s*<td class=\"name\"><a [^>]*>letters.*?</tr>", text(admin, "/queues/"), re.DOTALL)
    assert row
    assert ">3</td>" in row[0]
    assert "nobody listens" in row[0]


def test_jobs_are_filtered_by_state_task_and_namespace(admin: Client, job: Job) -> None:
    other = sample_tasks.talk.enqueue(namespace=NAMESPACE)
    finish(other, "succeeded", result=None)
    for query, shown in [
        ("", {job, other}),
        ("?state=ready", {job}),
        ("?state=succeeded", {other}),
        ("?state=nonsense", {job, other}),
        ("?task=samples.talk", {other}),
        (f"?namespace={NAMESPACE}&state=ready", {job}),
        ("?namespace=other.one", set()),
    ]:
        page = text(admin, f"/jobs/{query}")
        assert {each for each in (job, other) if str(each.id) in page} == shown, query


@pytest.mark.parametrize("query", ["", f"?namespace={NAMESPACE}"])
def test_every_job_is_on_one_page_exactly(
    admin: Client, namespace: str, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of one moment, and while new ones come in; newest first."""
    monkeypatch.setattr(job_pages, "PAGE_ROWS", 3)
    moment = timezone.now() - timedelta(hours=1)
    tasks = [sample_tasks.add, sample_tasks.talk]
    jobs = [tasks[number % 2].enqueue(namespace=namespace, **({} if number % 2 else {"a": 1})) for number in range(8)]
    for number, job in enumerate(jobs):
        Job.objects.filter(id=job.id).update(created_at=moment + timedelta(seconds=number // 4))
    newest = [str(job.id) for job in Job.objects.order_by("-created_at", "-id")]
    path, seen = f"/jobs/{query}", []
    while path:
        page = text(admin, path)
        seen += re.findall(r'<td class="name"><a href="/jobs/([0-9a-f-]{36})/"', page)
        older = re.search(r'href="(\?[^"]*before=[^"]+)"[^>]*>Older', page)
        path = f"/jobs/{older[1].replace('&amp;', '&')}" if older else ""
        sample_tasks.add.enqueue(namespace=namespace, a=99)
    assert seen == newest


@pytest.mark.parametrize("query", ["?task=a%00b", "?namespace=a%00b", "?state=%00"])
def test_a_filter_that_cannot_be_is_none(admin: Client, job: Job, query: str) -> None:
    assert str(job.id) in text(admin, f"/jobs/{query}")


@pytest.mark.parametrize(
    "before",
    [
        "nonsense",
        "2026-01-01_x",
        "_",
        f"2026-01-01T00:00:00_{uuid.UUID(int=1)}",
        f"0001-01-01T00:00:00%2B23:59_{uuid.UUID(int=1)}",
        f"9999-12-31T23:59:59-23:59_{uuid.UUID(int=1)}",
        "2026-01-01T00:00:00Z_%00",
    ],
)
def test_a_page_number_that_is_none_is_the_first_page(admin: Client, job: Job, before: str) -> None:
    assert str(job.id) in text(admin, f"/jobs/?before={before}")


def test_a_running_job_is_shown_as_it_is_and_with_a_stream_for_the_rest(admin: Client, job: Job) -> None:
    run(job)
    page = text(admin, f"/jobs/{job.id}/")
    newest = Event.objects.filter(job=job).latest("id").id
    assert re.search(rf'data-stream="/events/job/[^"]+\?after={newest}"', page)
    assert 'value="3" max="12"' in page
    assert "adding up" in page
    assert "line 1" in page
    assert "atlas" in page
    assert status_path(job.id) in page
    assert '<meta http-equiv="refresh"' in page  # inside <noscript>
    assert f'action="/jobs/{job.id}/cancel/"' in page


def test_a_job_that_has_ended_needs_no_stream(admin: Client, job: Job) -> None:
    finish(run(job), "succeeded", result='{"sum": 1234}')
    page = text(admin, f"/jobs/{job.id}/")
    assert "data-stream" not in page
    assert "http-equiv" not in page
    assert "&quot;sum&quot;: 1234" in page


def test_a_failed_job_shows_why(admin: Client, job: Job) -> None:
    finish(run(job), "failed", error={"code": "sum_lost", "message": "the sum <b>is</b> lost", "traceback": "line 7"})
    page = text(admin, f"/jobs/{job.id}/")
    assert "the sum &lt;b&gt;is&lt;/b&gt; lost" in page
    assert "sum_lost" in page
    assert "line 7" in page


def test_a_long_log_is_shown_from_its_end(admin: Client, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_pages, "LOG_LINES", 3)
    run(job, lines=5)
    page = text(admin, f"/jobs/{job.id}/")
    assert "line 4" in page
    assert "line 1" not in page
    assert "Earlier lines" in page


def test_the_details_are_refreshed_alone(admin: Client, job: Job) -> None:
    finish(run(job), "succeeded", result='{"sum": 1234}')
    part = text(admin, f"/jobs/{job.id}/", HX_Request="true")
    assert "<html" not in part
    assert "1234" in part
    assert 'hx-swap-oob="innerHTML"' in part


def test_a_job_that_is_not_there_is_not_found(admin: Client) -> None:
    response = admin.get(f"/jobs/{uuid.uuid4()}/")
    assert response.status_code == 404
    assert "There is nothing at this address" in response.content.decode()


def test_a_job_is_cancelled_by_post_alone(admin: Client, job: Job) -> None:
    assert admin.get(f"/jobs/{job.id}/cancel/").status_code == 405
    assert admin.post(f"/jobs/{job.id}/cancel/")["Location"] == f"/jobs/{job.id}/"
    job.refresh_from_db()
    assert job.state == "cancelled"
    state = Event.objects.filter(job=job, kind="state").latest("id")
    assert state.data["text"] == "cancelled by ada"


def test_to_cancel_what_has_ended_says_so(admin: Client, job: Job) -> None:
    finish(run(job), "succeeded", result=None)
    page = admin.post(f"/jobs/{job.id}/cancel/", follow=True).content.decode()
    assert "Not done" in page


def test_to_cancel_what_is_not_there_is_not_found(admin: Client) -> None:
    assert admin.post(f"/jobs/{uuid.uuid4()}/cancel/").status_code == 404


def test_cancelling_needs_the_token_against_forged_requests(job: Job) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(get_user_model().objects.create_superuser("ada", password="x"))
    assert strict.post(f"/jobs/{job.id}/cancel/").status_code == 403


def test_who_may_only_look_has_no_button_and_no_power(reader: Client, job: Job) -> None:
    assert "cancel/" not in text(reader, f"/jobs/{job.id}/")
    refused = reader.post(f"/jobs/{job.id}/cancel/")
    assert refused.status_code == 403
    assert "Not allowed" in refused.content.decode()
    job.refresh_from_db()
    assert job.state == "ready"


@pytest.mark.parametrize("action", ["cancel", "retry", "hold", "release", "edit", "rerun"])
def test_who_may_only_look_cannot_rewrite_a_job(reader: Client, job: Job, action: str) -> None:
    """Not by what a form would send, nor for all jobs at once: the server refuses, whatever the page shows."""
    before = Job.objects.filter(id=job.id).values().get()
    form = {"arguments": '{"a": 2}', "priority": "9", "to_queue": "other"}
    assert reader.post(f"/jobs/{job.id}/{action}/", form).status_code == 403
    assert reader.post("/jobs/do/", {"action": action, "state": "ready", **form}).status_code == 403
    assert Job.objects.filter(id=job.id).values().get() == before
    assert Job.objects.count() == 1


def test_the_permission_to_change_jobs_is_enough_to_cancel(client: Client, job: Job) -> None:
    user = get_user_model().objects.create_user("carl", password="x")
    user.user_permissions.add(Permission.objects.get(codename="change_job"))
    client.force_login(user)
    assert client.post(f"/jobs/{job.id}/cancel/").status_code == 302


@pytest.mark.django_db(transaction=True)
def test_the_whole_log_is_a_download(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_pages, "LOG_BATCH", 2)
    run(job, lines=5)

    async def download() -> tuple[str, str]:
        client = AsyncClient()
        user = await get_user_model().objects.acreate(username="ada")
        await client.aforce_login(user)
        response = await client.get(f"/jobs/{job.id}/log.txt")
        body = b"".join([piece async for piece in response.streaming_content])  # type: ignore[union-attr]
        return response["Content-Disposition"], body.decode()

    disposition, body = async_to_sync(download)()
    assert disposition == f'attachment; filename="job-{job.id}.log"'
    lines = body.splitlines()
    assert [line.split(" ", 1)[1].strip() for line in lines] == [f"info    line {number}" for number in range(5)]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z ", lines[0])


# -- the status page


def test_the_person_who_waits_needs_no_log_in_and_sees_no_inside(client: Client, job: Job) -> None:
    run(job)
    response = client.get(status_path(job.id))
    page = response.content.decode()
    assert response.status_code == 200
    assert response["Referrer-Policy"] == "no-referrer"
    assert "In progress" in page
    assert 'value="3" max="12"' in page
    assert "/events/status/" in page
    for inside in ("line 1", "atlas", "Arguments", "cancel/", "/jobs/"):
        assert inside not in page


def test_the_status_page_says_how_it_ended(client: Client, job: Job) -> None:
    finish(run(job), "succeeded", result='{"product_rows": 41235}')
    page = text(client, status_path(job.id))
    assert "Done" in page
    assert "Product rows" in page
    assert "41,235" in page
    assert "data-stream" not in page


def test_the_status_page_of_a_failed_job_keeps_the_reasons_inside(client: Client, job: Job) -> None:
    finish(run(job), "failed", error={"code": "no", "message": "secret", "traceback": "secret"})
    page = text(client, status_path(job.id))
    assert "It did not work" in page
    assert "secret" not in page


def test_every_state_has_words() -> None:
    assert set(job_pages.STATE_WORDS) == set(Job.State)


def test_a_link_that_was_changed_leads_nowhere(client: Client, job: Job) -> None:
    assert client.get(status_path(job.id)[:-3] + "xx/").status_code == 404


def test_a_link_to_a_job_that_is_gone_leads_nowhere(client: Client) -> None:
    assert client.get(status_path(uuid.uuid4())).status_code == 404


# -- health, and the policy


def test_health_asks_for_no_log_in(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_readiness_says_what_is_missing(client: Client) -> None:
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {
        "status": "unavailable",
        "parts": {"web": True, "database": True, "gateway": False, "worker": False},
        "missing": ["gateway", "worker"],
    }


def test_ready_is_when_all_parts_are_alive(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "sessions_serving", lambda kind: 1)
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["missing"] == []


def test_a_database_that_is_away_is_an_answer_too(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import OperationalError

    def away() -> bool:
        raise OperationalError("connection refused")

    monkeypatch.setitem(health.PARTS, "database", away)
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["missing"] == ["database", "gateway", "worker"]


@pytest.mark.parametrize("path", ["/login/", "/healthz", "/nowhere/"])
def test_every_answer_carries_the_policy(client: Client, path: str) -> None:
    assert client.get(path)["Content-Security-Policy"] == POLICY


@pytest.mark.parametrize("path", ["/login/", *PAGES])
def test_no_page_has_scripts_or_styles_of_its_own(admin: Client, path: str) -> None:
    page = text(admin, path) if path != "/login/" else text(Client(), path)
    assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)", page)
    assert "<style" not in page
    assert not re.search(r"\son\w+=", page)


def test_a_job_is_held_released_tried_again_and_run_again_from_its_page(admin: Client, job: Job) -> None:
    def press(action: str, **form: str) -> str:
        page = text(admin, f"/jobs/{job.id}/")
        assert f'action="/jobs/{job.id}/{action}/"' in page
        return admin.post(f"/jobs/{job.id}/{action}/", form, follow=True).content.decode()

    assert "The job was changed." in press("edit", arguments='{"a": 9}', priority="8")
    job.refresh_from_db()
    assert (job.arguments, job.priority) == ({"a": 9}, 8)
    assert "0 to 9" in press("edit", priority="high")
    assert "no argument" in press("edit", arguments='{"z": 9}')
    assert "The job is held back." in press("hold")
    assert "held" in text(admin, "/jobs/")
    press("release")
    press("cancel")
    assert "The job is tried again." in press("retry")
    press("cancel")
    assert "as a new job" in press("rerun", arguments='{"a": 77}')
    assert Job.objects.exclude(id=job.id).get().arguments == {"a": 77}
    assert "no JSON" in press("rerun", arguments="{")
    assert "JSON object" in press("rerun", arguments="[]")
    assert admin.post(f"/jobs/{job.id}/explode/").status_code == 404


def test_all_jobs_of_a_list_are_acted_on(admin: Client, job: Job) -> None:
    page = text(admin, "/jobs/?state=ready")
    assert 'action="/jobs/do/?state=ready"' in page
    assert "Hold all of these" in page
    response = admin.post("/jobs/do/?state=ready", {"action": "hold", "state": "ready"}, follow=True)
    assert "Done with" in response.content.decode()
    job.refresh_from_db()
    assert job.held_at is not None
    assert "Edit all ready jobs of this list" in page
    form = {"action": "edit", "state": "ready", "priority": "7", "to_queue": "moved", "run_at": "2001-01-01T00:00:00Z"}
    assert "Done with" in admin.post("/jobs/do/?state=ready", form, follow=True).content.decode()
    job.refresh_from_db()
    assert (job.priority, job.queue, job.state) == (7, "moved", "ready")
    for wrong, words in (
        ({"run_at": "soon"}, "is no moment"),
        ({"to_queue": "/topic/x"}, "bare name"),
        ({}, "to change"),
    ):
        answer = admin.post("/jobs/do/", {"action": "edit", "state": "ready", **wrong}, follow=True)
        assert words in answer.content.decode()
    assert "choose a state" in admin.post("/jobs/do/", {"action": "hold"}, follow=True).content.decode()


def test_who_may_only_look_acts_on_none(job: Job) -> None:
    client = Client()
    client.force_login(get_user_model().objects.create_user("only-looks"))
    page = text(client, "/jobs/?state=ready")
    assert "/jobs/do/" not in page
    assert client.post("/jobs/do/", {"action": "hold", "state": "ready"}).status_code == 403
    assert client.post(f"/jobs/{job.id}/hold/").status_code == 403


def test_a_schedule_is_made_paused_resumed_run_and_removed_in_the_console(admin: Client, job: Job) -> None:
    form = {"action": "put", "name": "nightly", "namespace": job.namespace, "task": "samples.add"}
    times = {"cron": "30 2 * * 1-5", "timezone": "Europe/Berlin", "misfire": "skip"}
    page = admin.post("/schedules/", {**form, **times, "arguments": '{"a": 5}'}, follow=True).content.decode()
    assert "at 02:30, Monday through Friday (Europe/Berlin)" in page
    schedule = Schedule.objects.get()
    assert (schedule.arguments, schedule.misfire, schedule.source) == ({"a": 5}, "skip", "console")
    for action, words in (("pause", "is paused"), ("resume", "goes on at"), ("run", "nightly runs: job")):
        page = admin.post("/schedules/", {"action": action, "name": "nightly"}, follow=True).content.decode()
        assert words in page
    assert Job.objects.filter(requested_by="schedule nightly", arguments={"a": 5}).count() == 1
    for wrong in (
        {"cron": "often"},
        {"every": "x"},
        {"every": "5", "arguments": "[]"},
        {"task": "no.such", "every": "5"},
    ):
        response = admin.post("/schedules/", {**form, **wrong})
        assert response.status_code in (400, 404)
        assert "Not done" in response.content.decode()
        assert 'value="nightly"' in response.content.decode()  # what was typed is still there
    admin.post("/schedules/", {"action": "remove", "name": "nightly"})
    assert not Schedule.objects.exists()
    assert admin.post("/schedules/", {"action": "explode"}).status_code == 404


def test_a_schedule_of_the_settings_is_not_removed_here_and_who_only_looks_changes_none(
    admin: Client, job: Job
) -> None:
    definition = {"namespace": job.namespace, "task": "samples.add", "arguments": {"a": 1}, "every": 60}
    schedules.put("minutely", definition, source=Schedule.Source.SETTINGS)
    response = admin.post("/schedules/", {"action": "remove", "name": "minutely"})
    assert "comes from the settings" in response.content.decode()
    client = Client()
    client.force_login(get_user_model().objects.create_user("looks-at-schedules"))
    page = text(client, "/schedules/")
    assert "every minute" in page
    assert "Run now" not in page
    assert client.post("/schedules/", {"action": "pause", "name": "minutely"}).status_code == 403
    assert not Schedule.objects.get().paused
