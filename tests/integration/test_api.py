"""The REST API, on a real Postgres."""

import asyncio
import base64
import json
import uuid
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import OperationalError, connection, connections
from django.test import AsyncClient, Client
from django.utils import timezone

from apps.accounts.models import AccessKey, Namespace
from apps.accounts.models import Permission as DestinationPermission
from apps.api import bodies
from apps.broker import catalogue
from apps.broker.headers import decode_headers
from apps.console import feed as feeds
from apps.jobs.ending import finish, note
from apps.jobs.models import Event, Job
from tests import sample_tasks

pytestmark = pytest.mark.django_db

OWN = "samples.own"
OTHER = "samples.other"


class Api:
    """A program with an access key."""

    def __init__(self, token: str | None) -> None:
        self.client = Client()
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str, **headers: str) -> Any:
        """GET below /api/v1/."""
        return self.client.get(f"/api/v1/{path}", headers={**self.headers, **headers})

    def post(self, path: str, body: Any = b"", content_type: str = "application/json") -> Any:
        """POST below /api/v1/; what is no bytes becomes JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body)
        return self.client.post(f"/api/v1/{path}", data, content_type=content_type, headers=self.headers)


@pytest.fixture
def token() -> str:
    key, passcode = AccessKey.issue("tests", Namespace.objects.create(name=OWN))
    Namespace.objects.create(name=OTHER)
    return f"{key.login}.{passcode}"


@pytest.fixture
def api(token: str) -> Api:
    return Api(token)


@pytest.fixture
def job(token: str) -> Job:
    return sample_tasks.add.enqueue(namespace=OWN, a=1)


def problem(response: Any, status: int, code: str) -> str:
    """Check that the answer is that problem; its detail."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, "about:blank")
    assert body["title"]
    return str(body["detail"])


def waiting_messages(namespace: str, kind: str, name: str) -> list[tuple[dict[str, str], bytes, bool, int]]:
    """Headers, body, persistence and priority of what waits there."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT m.headers, m.body, m.persistent, m.priority FROM msgweb.message m JOIN msgweb.destination d"
            " ON d.id = m.destination WHERE d.namespace = %s AND d.kind = %s AND d.name = %s ORDER BY m.id",
            [namespace, kind, name],
        )
        return [(decode_headers(bytes(h)), bytes(b), p, n) for h, b, p, n in cursor.fetchall()]


# -- who may ask


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer x", "Bearer unknown.passcode", "Bearer a.b.c", "Basic YTpi", "bearer \xff.\xff"],
)
def test_without_the_right_key_nothing_is_answered(authorization: str) -> None:
    response = Client().get("/api/v1/tasks", headers={"Authorization": authorization} if authorization else {})
    problem(response, 401, "not_authenticated")
    assert response["WWW-Authenticate"].startswith("Bearer")


def test_a_revoked_key_opens_nothing(api: Api) -> None:
    AccessKey.objects.update(revoked_at=timezone.now())
    problem(api.get("tasks"), 401, "not_authenticated")


def test_a_key_opens_its_namespaces_and_no_others(api: Api) -> None:
    assert api.get(f"namespaces/{OWN}/queues").status_code == 200
    problem(api.get(f"namespaces/{OTHER}/queues"), 403, "access_refused")
    problem(api.get("namespaces/not.there/queues"), 403, "access_refused")
    problem(api.post(f"namespaces/{OTHER}/queues/x/messages", {"body": 1}), 403, "access_refused")
    problem(api.post("jobs", {"namespace": OTHER, "task": "samples.add", "arguments": {"a": 1}}), 403, "access_refused")


def test_a_job_of_another_namespace_is_not_there(api: Api) -> None:
    foreign = sample_tasks.add.enqueue(namespace=OTHER, a=1)
    for response in (
        api.get(f"jobs/{foreign.id}"),
        api.get(f"jobs/{foreign.id}?wait=1"),
        api.get(f"jobs/{foreign.id}/log"),
        api.post(f"jobs/{foreign.id}/cancel"),
    ):
        problem(response, 404, "unknown_job")
    foreign.refresh_from_db()
    assert foreign.state == "ready"


def test_a_person_asks_with_the_console_s_session(job: Job) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(get_user_model().objects.create_superuser("ada", password="x"))
    assert client.get(f"/api/v1/jobs/{job.id}").status_code == 200
    problem(client.get("/api/v1/namespaces/not.there/queues"), 404, "not_found")
    forged = client.post(f"/api/v1/jobs/{job.id}/cancel")
    assert "CSRF" in problem(forged, 403, "access_refused")


def test_a_person_needs_permissions_to_change_anything(client: Client, job: Job) -> None:
    user = get_user_model().objects.create_user("rita", password="x")
    client.force_login(user)
    asked = json.dumps({"namespace": OWN, "task": "samples.add", "arguments": {"a": 1}})
    problem(client.post("/api/v1/jobs", asked, content_type="application/json"), 403, "access_refused")
    problem(client.post(f"/api/v1/jobs/{job.id}/cancel"), 403, "access_refused")
    send = f"/api/v1/namespaces/{OWN}/queues/x/messages"
    problem(client.post(send, b"x", content_type="text/plain"), 403, "access_refused")
    user.user_permissions.add(Permission.objects.get(codename="add_job"))
    client.force_login(get_user_model().objects.get(pk=user.pk))
    assert client.post("/api/v1/jobs", asked, content_type="application/json").status_code == 201


def restricted(token: str, pattern: str, **verbs: bool) -> AccessKey:
    """The key of the token, which may do that and nothing else."""
    key = AccessKey.objects.get(login=token.partition(".")[0])
    key.restricted = True
    key.save()
    DestinationPermission.objects.create(key=key, pattern=pattern, **verbs)
    return key


def test_a_restricted_key_sends_where_its_permissions_say(api: Api, token: str) -> None:
    restricted(token, "queue/orders.*", send=True)
    assert api.post(f"namespaces/{OWN}/queues/orders.new/messages", {"body": 1}).status_code == 201
    for path in ("queues/letters", "topics/orders.new"):
        problem(api.post(f"namespaces/{OWN}/{path}/messages", {"body": 1}), 403, "access_refused")
    problem(api.post("jobs", {"task": "samples.add", "arguments": {"a": 1}}), 403, "access_refused")
    assert [queue["name"] for queue in api.get(f"namespaces/{OWN}/queues").json()["queues"]] == ["orders.new"]


def test_a_restricted_key_asks_for_its_tasks_and_for_answers_where_it_may_send(api: Api, token: str) -> None:
    restricted(token, "task/samples.*", send=True)
    asked = {"task": "samples.add", "arguments": {"a": 1}}
    for reply_to in (None, "/reply-queue/x"):
        assert api.post("jobs", {**asked, "reply_to": reply_to}).status_code == 201
    for reply_to in ("/queue/of.others", "/topic/of.others", "of.others"):
        problem(api.post("jobs", {**asked, "reply_to": reply_to}), 403, "access_refused")


def test_a_restricted_key_sees_and_cancels_its_own_jobs_and_those_of_tasks_that_it_manages(
    api: Api, token: str, job: Job
) -> None:
    key = restricted(token, "task/samples.add", send=True)
    own = api.post("jobs", {"task": "samples.add", "arguments": {"a": 1}}).json()["id"]
    assert api.get(f"jobs/{own}").status_code == 200
    assert api.post(f"jobs/{own}/cancel").status_code == 200
    for answer in (api.get(f"jobs/{job.id}"), api.post(f"jobs/{job.id}/cancel"), api.get(f"jobs/{job.id}/log")):
        problem(answer, 404, "unknown_job")
    permission = key.permissions.get()
    permission.receive = True
    permission.save()
    assert api.get(f"jobs/{job.id}").status_code == 200
    problem(api.post(f"jobs/{job.id}/cancel"), 403, "access_refused")
    permission.manage = True
    permission.save()
    assert api.post(f"jobs/{job.id}/cancel").status_code == 200


def test_a_person_may_do_what_their_permissions_say(client: Client, job: Job) -> None:
    user = get_user_model().objects.create_user("rita", password="x")
    client.force_login(user)
    DestinationPermission.objects.create(user=user, pattern="queue/letters", send=True)
    path = f"/api/v1/namespaces/{OWN}/queues"
    assert client.post(f"{path}/letters/messages", b"x", content_type="text/plain").status_code == 201
    problem(client.post(f"{path}/bills/messages", b"x", content_type="text/plain"), 403, "access_refused")
    DestinationPermission.objects.create(user=user, pattern="task/samples.add", manage=True)
    assert client.post(f"/api/v1/jobs/{job.id}/cancel").status_code == 200


def test_an_expired_key_opens_nothing(api: Api) -> None:
    AccessKey.objects.update(expires_at=timezone.now())
    problem(api.get("tasks"), 401, "not_authenticated")


# -- sending


@pytest.mark.parametrize(
    ("envelope", "body", "content_type"),
    [
        ({"body": "grüße"}, "grüße".encode(), "text/plain;charset=utf-8"),
        ({"body": {"id": 1}}, b'{"id": 1}', "application/json"),
        ({"body": None}, b"null", "application/json"),
        ({"body": "", "content_type": "text/csv"}, b"", "text/csv"),
        ({"body": "x", "headers": {"Content-Type": "text/csv"}}, b"x", "text/csv"),
        ({"body_base64": base64.b64encode(b"\xff\x00").decode()}, b"\xff\x00", "application/octet-stream"),
    ],
)
def test_an_envelope_becomes_a_message(api: Api, envelope: dict[str, Any], body: bytes, content_type: str) -> None:
    response = api.post(f"namespaces/{OWN}/queues/letters/messages", envelope)
    assert response.status_code == 201
    assert response.json()["destination"] == "/queue/letters"
    ((headers, sent, persistent, priority),) = waiting_messages(OWN, "queue", "letters")
    assert (headers, sent, persistent, priority) == ({"content-type": content_type}, body, True, 4)


def test_an_envelope_carries_headers_priority_and_persistence(api: Api) -> None:
    envelope = {"body": 1, "headers": {"kind": "a:b\nc", "n": "7"}, "priority": 9, "persistent": False}
    assert api.post(f"namespaces/{OWN}/queues/letters/messages", envelope).status_code == 201
    ((headers, _, persistent, priority),) = waiting_messages(OWN, "queue", "letters")
    assert headers == {"kind": "a:b\nc", "n": "7", "content-type": "application/json"}
    assert (persistent, priority) == (False, 9)


def test_any_other_body_is_the_message_itself(api: Api) -> None:
    path = f"namespaces/{OWN}/queues/deep/name/messages?persistent=false&priority=7"
    response = api.post(path, b"\x00\x01", content_type="image/png")
    assert response.status_code == 201
    assert waiting_messages(OWN, "queue", "deep/name") == [({"content-type": "image/png"}, b"\x00\x01", False, 7)]


def test_a_topic_keeps_nothing(api: Api) -> None:
    response = api.post(f"namespaces/{OWN}/topics/news/messages", {"body": "x"})
    assert response.status_code == 201
    assert response.json() == {"id": None, "namespace": OWN, "destination": "/topic/news"}


@pytest.mark.parametrize(
    ("envelope", "code"),
    [
        ({}, "bad_request"),
        ([], "bad_request"),
        ({"body": 1, "body_base64": "eA=="}, "bad_request"),
        ({"body_base64": "§"}, "bad_request"),
        ({"body": 1, "priority": 10}, "bad_request"),
        ({"body": 1, "persistent": "perhaps"}, "bad_request"),
        ({"body": 1, "headers": {"message-id": "1"}}, "bad_message"),
        ({"body": 1, "headers": {"": "1"}}, "bad_message"),
        ({"body": 1, "headers": "x"}, "bad_request"),
        (b"{", "bad_request"),
        (b"NaN", "bad_request"),
        (b'{"body": Infinity}', "bad_request"),
        (b'{"body": "\\ud800"}', "bad_request"),
        (b"\xff", "bad_request"),
        (b"[" * 100_000, "bad_request"),
    ],
)
def test_what_is_no_envelope_is_refused(api: Api, envelope: Any, code: str) -> None:
    problem(api.post(f"namespaces/{OWN}/queues/letters/messages", envelope), 400, code)
    assert waiting_messages(OWN, "queue", "letters") == []


@pytest.mark.parametrize("query", ["priority=10", "priority=x", "persistent=perhaps"])
def test_what_is_no_option_of_a_message_is_refused(api: Api, query: str) -> None:
    path = f"namespaces/{OWN}/queues/letters/messages?{query}"
    problem(api.post(path, b"x", content_type="text/plain"), 400, "bad_request")


@pytest.mark.parametrize("name", ["a%00b", "a%09b", "x" * 256])
def test_a_name_that_cannot_be_is_refused(api: Api, name: str) -> None:
    problem(api.post(f"namespaces/{OWN}/queues/{name}/messages", {"body": 1}), 400, "bad_destination")


def test_a_body_over_the_limit_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LIMIT", 100)
    path = f"namespaces/{OWN}/queues/letters/messages"
    assert api.post(path, b"x" * 100, content_type="text/plain").status_code == 201
    problem(api.post(path, b"x" * 101, content_type="text/plain"), 413, "limit_exceeded")


def test_a_large_message_is_no_form(api: Api) -> None:
    """Django's own limit of 2.5 MB is for forms."""
    path = f"namespaces/{OWN}/queues/letters/messages"
    assert api.post(path, b"x" * 4_000_000, content_type="text/plain").status_code == 201


def test_queues_are_listed(api: Api) -> None:
    api.post(f"namespaces/{OWN}/queues/letters/messages", {"body": 1})
    queues = {queue["name"]: queue for queue in api.get(f"namespaces/{OWN}/queues").json()["queues"]}
    assert (queues["letters"]["ready"], queues["letters"]["in_flight"], queues["letters"]["consumers"]) == (1, 0, 0)


# -- jobs


def test_a_job_is_asked_for_and_found_where_it_is_said_to_be(api: Api) -> None:
    response = api.post("jobs", {"task": "samples.add", "arguments": {"a": 1}, "correlation_id": "c1"})
    assert response.status_code == 201
    job = response.json()
    assert (job["namespace"], job["state"], job["final"], job["arguments"]) == (OWN, "ready", False, {"a": 1})
    assert job["requested_by"] == AccessKey.objects.get().login
    assert api.client.get(response["Location"], headers=api.headers).json() == job
    assert api.client.get(job["status_url"]).status_code == 200


def test_to_ask_twice_with_an_id_is_to_ask_once(api: Api) -> None:
    asked = {"namespace": OWN, "task": "samples.add", "arguments": {"a": 1}, "id": str(uuid.uuid4())}
    assert api.post("jobs", asked).status_code == 201
    again = api.post("jobs", asked)
    assert again.status_code == 200
    assert again.json()["id"] == asked["id"]
    assert Job.objects.count() == 1
    problem(api.post("jobs", {**asked, "arguments": {"a": 2}}), 409, "job_exists")


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"task": "samples.not_there"}, 404, "unknown_task"),
        ({}, 400, "bad_request"),
        ({"task": "samples.add"}, 400, "bad_arguments"),
        ({"task": "samples.add", "arguments": {"a": 1, "z": 1}}, 400, "bad_arguments"),
        ({"task": "samples.add", "arguments": [1]}, 400, "bad_request"),
        ({"task": "samples.add", "arguments": {"a": "\0"}}, 400, "bad_arguments"),
        ({"task": "samples.add", "arguments": {"a": 1}, "id": "x"}, 400, "bad_request"),
        ({"task": "samples.add", "arguments": {"a": 1}, "reply_to": "/nowhere/x"}, 400, "bad_destination"),
        ({"task": "samples.add", "arguments": {"a": 1}, "correlation_id": "x" * 256}, 400, "bad_request"),
        ({"task": "samples.add", "arguments": {"a": 1}, "priority": -1}, 400, "bad_request"),
        ({"task": "samples.add", "arguments": {"a": "x" * 1_100_000}}, 413, "limit_exceeded"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(api: Api, asked: dict[str, Any], status: int, code: str) -> None:
    problem(api.post("jobs", asked), status, code)
    assert Job.objects.count() == 0


def test_the_refusal_names_the_field(api: Api) -> None:
    assert problem(api.post("jobs", {"task": "samples.add", "id": "x"}), 400, "bad_request").startswith("id: ")


def test_arguments_arrive_as_they_were_sent(api: Api) -> None:
    arguments = {"a": [1, 2.5, None, True, {"b": "ü"}]}
    assert api.post("jobs", {"task": "samples.add", "arguments": arguments}).json()["arguments"] == arguments


def test_a_job_that_has_ended_is_answered_at_once(api: Api, job: Job) -> None:
    finish(job, "failed", error={"code": "no", "message": "it broke", "traceback": "inside"})
    answer = api.get(f"jobs/{job.id}?wait=60").json()
    assert (answer["state"], answer["final"]) == ("failed", True)
    assert answer["error"] == {"code": "no", "message": "it broke"}


@pytest.mark.parametrize("wait", ["61", "-1", "x", "nan", "inf"])
def test_a_wait_that_is_too_long_or_none_is_refused(api: Api, job: Job, wait: str) -> None:
    problem(api.get(f"jobs/{job.id}?wait={wait}"), 400, "bad_request")


def finish_elsewhere(job: Job) -> None:
    """End a job, in a thread whose connection nobody else has."""
    finish(job, "succeeded", result='{"sum": 2}')
    connections.close_all()


@pytest.mark.django_db(transaction=True)
def test_waiting_ends_with_the_job(token: str, job: Job) -> None:
    """Through the ASGI handler, as in production: the answer comes when the job ends, not when the time is over."""

    async def test() -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        feed = feeds.feed_of_loop()

        async def end() -> None:
            await feed.listening.wait()
            await sync_to_async(finish_elsewhere, thread_sensitive=False)(job)

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            ending = group.create_task(end())
            answer = group.create_task(AsyncClient().get(f"/api/v1/jobs/{job.id}?wait=60", headers=headers))
        assert ending.done()
        return answer.result().json()  # type: ignore[no-any-return, attr-defined]

    answer = async_to_sync(test)()
    assert (answer["state"], answer["result"]) == ("succeeded", {"sum": 2})


@pytest.mark.django_db(transaction=True)
def test_waiting_ends_when_the_time_is_over(api: Api, job: Job) -> None:
    answer = api.get(f"jobs/{job.id}?wait=0.05")
    assert answer.status_code == 200
    assert answer.json()["state"] == "ready"


def test_a_job_is_cancelled(api: Api, job: Job) -> None:
    response = api.post(f"jobs/{job.id}/cancel")
    assert response.status_code == 200
    assert response.json()["state"] == "cancelled"
    assert api.post(f"jobs/{job.id}/cancel").status_code == 200


def test_a_running_job_is_asked_to_stop(api: Api, job: Job) -> None:
    Job.objects.filter(id=job.id).update(state="running", worker=1)
    response = api.post(f"jobs/{job.id}/cancel")
    assert response.status_code == 202
    assert response.json()["cancel_requested_at"]


def test_a_job_that_has_ended_cannot_be_cancelled(api: Api, job: Job) -> None:
    finish(job, "succeeded", result=None)
    problem(api.post(f"jobs/{job.id}/cancel"), 409, "job_is_final")


def test_a_log_is_read_piece_by_piece(api: Api, job: Job) -> None:
    for number in range(5):
        note(job, Event.Kind.LOG, {"level": "info", "text": f"line {number}"})
    note(job, Event.Kind.PROGRESS, {"done": 1, "total": 2, "text": ""})
    seen, after, more = [], 0, True
    while more:
        piece = api.get(f"jobs/{job.id}/log?after={after}&limit=2").json()
        seen += [line["text"] for line in piece["lines"]]
        after, more = piece["after"], piece["more"]
    assert seen == [f"line {number}" for number in range(5)]
    assert api.get(f"jobs/{job.id}/log?after={after}").json() == {"lines": [], "after": after, "more": False}


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=1001", f"after={2**64}"])
def test_a_piece_of_a_log_that_cannot_be_is_refused(api: Api, job: Job, query: str) -> None:
    problem(api.get(f"jobs/{job.id}/log?{query}"), 400, "bad_request")


def test_tasks_are_told_with_their_parameters(api: Api) -> None:
    tasks = {task["name"]: task for task in api.get("tasks").json()["tasks"]}
    assert tasks["samples.add"] == {
        "name": "samples.add",
        "queue": "samples",
        "max_attempts": 1,
        "parameters": [{"name": "a", "required": True}, {"name": "b", "required": False}],
    }


# -- errors, and the description


@pytest.mark.parametrize("path", ["/api/", "/api/v1/nothing", "/api/v1/jobs/not-a-uuid", "/api/v2/jobs"])
def test_what_is_not_there_is_a_problem_too(client: Client, path: str) -> None:
    problem(client.get(path), 404, "not_found")
    problem(client.post(path), 404, "not_found")


def test_a_wrong_method_is_a_problem(api: Api) -> None:
    problem(api.client.delete("/api/v1/tasks", headers=api.headers), 405, "bad_method")


def test_a_database_that_is_away_is_a_problem_to_try_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(namespace: str | None = None) -> list[catalogue.QueueInfo]:
        raise OperationalError("connection refused")

    monkeypatch.setattr(catalogue, "queues", away)
    response = api.get(f"namespaces/{OWN}/queues")
    problem(response, 503, "unavailable")
    assert response["Retry-After"]


def test_a_mistake_of_ours_tells_no_secrets(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(namespace: str | None = None) -> list[catalogue.QueueInfo]:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(catalogue, "queues", broken)
    assert "secret" not in problem(api.get(f"namespaces/{OWN}/queues"), 500, "internal_error")


def test_the_description_names_every_endpoint_and_both_ways_in(client: Client) -> None:
    schema = client.get("/api/schema/", headers={"Accept": "application/json"}).json()
    assert set(schema["paths"]) == {
        "/api/v1/tasks",
        "/api/v1/jobs",
        "/api/v1/jobs/{job_id}",
        "/api/v1/batches/{batch_id}",
        "/api/v1/jobs/actions",
        "/api/v1/jobs/{job_id}/cancel",
        "/api/v1/jobs/{job_id}/retry",
        "/api/v1/jobs/{job_id}/hold",
        "/api/v1/jobs/{job_id}/release",
        "/api/v1/jobs/{job_id}/rerun",
        "/api/v1/jobs/{job_id}/log",
        "/api/v1/namespaces/{namespace}/queues",
        "/api/v1/namespaces/{namespace}/queues/{name}/messages",
        "/api/v1/namespaces/{namespace}/topics/{name}/messages",
    }
    assert set(schema["components"]["securitySchemes"]) == {"accessKey", "consoleSession"}


def test_the_page_of_the_api_needs_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/api/docs/", headers={"Accept": "text/html"}).content.decode()
    assert "swagger-ui-bundle.js" in page
    assert "https://" not in page.replace("https://127", "")
