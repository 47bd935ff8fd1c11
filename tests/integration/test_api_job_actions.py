"""What may be done with jobs over REST."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from apps.accounts.models import AccessKey, Namespace
from apps.jobs import testing
from apps.jobs.models import Job
from tests import sample_tasks

pytestmark = pytest.mark.django_db
OWN, OTHER = "samples.own", "samples.other"


class Api:
    """A program with an access key."""

    def __init__(self, token: str) -> None:
        self.client = Client()
        self.headers = {"Authorization": f"Bearer {token}"}

    def ask(self, verb: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and body of the answer."""
        data = b"" if body is None else json.dumps(body)
        response = self.client.generic(
            verb, f"/api/v1/{path}", data, content_type="application/json", headers=self.headers
        )
        return response.status_code, response.json()

    def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        """POST."""
        return self.ask("POST", path, body)


@pytest.fixture
def api() -> Api:
    key, passcode = AccessKey.issue("tests", Namespace.objects.create(name=OWN))
    Namespace.objects.create(name=OTHER)
    return Api(f"{key.login}.{passcode}")


@pytest.fixture
def job(api: Api) -> Job:
    return sample_tasks.add.enqueue(namespace=OWN, a=1)


def test_a_job_is_asked_for_with_what_it_takes(api: Api, job: Job) -> None:
    run_at = datetime.now(UTC) + timedelta(hours=1)
    asked = {"task": "samples.add", "arguments": {"b": 2}, "after": [str(job.id)], "result_as": "a", "hold": True}
    status, later = api.post("jobs", {**asked, "run_at": run_at.isoformat(), "expires": 60, "priority": 9})
    assert status == 201
    assert later["state"] == "scheduled"
    assert datetime.fromisoformat(later["run_at"]) == run_at
    assert datetime.fromisoformat(later["expires_at"]) == run_at + timedelta(seconds=60)
    assert later["held_at"] is not None
    assert later["priority"] == 9
    status, problem = api.post("jobs", {**asked, "delay": 1, "run_at": run_at.isoformat()})
    assert (status, problem["code"]) == (400, "bad_request")


def test_the_result_of_a_job_elsewhere_is_not_handed_on(api: Api) -> None:
    foreign = sample_tasks.add.enqueue(namespace=OTHER, a=1)
    asked = {"task": "samples.add", "after": [str(foreign.id)], "result_as": "a"}
    status, problem = api.post("jobs", asked)
    assert (status, problem["code"]) == (404, "unknown_job")


def test_held_released_edited_cancelled_retried_and_run_again(api: Api, job: Job) -> None:
    path = f"jobs/{job.id}"
    assert api.post(f"{path}/hold")[1]["held_at"] is not None
    assert testing.run_due() == []
    status, edited = api.ask("PATCH", path, {"arguments": {"a": 5}, "priority": 2})
    assert (status, edited["arguments"], edited["priority"]) == (200, {"a": 5}, 2)
    assert api.post(f"{path}/release")[1]["held_at"] is None
    assert api.post(f"{path}/cancel")[0] == 200
    status, again = api.post(f"{path}/retry")
    assert (status, again["state"]) == (200, "ready")
    assert [done.result for done in testing.run_due()] == [{"sum": 6}]
    status, problem = api.post(f"{path}/retry")
    assert (status, problem["code"]) == (409, "wrong_state")
    status, other = api.post(f"{path}/rerun", {"arguments": {"a": 7}})
    assert (status, other["arguments"]) == (201, {"a": 7})
    assert api.post(f"{path}/rerun")[1]["arguments"] == {"a": 5}
    assert api.ask("PATCH", f"jobs/{other['id']}", {"arguments": {"z": 1}})[1]["code"] == "bad_arguments"


def test_all_that_match_and_that_the_key_opens(api: Api, job: Job) -> None:
    jobs = [job, *(sample_tasks.add.enqueue(namespace=OWN, a=n) for n in range(4))]
    foreign = sample_tasks.add.enqueue(namespace=OTHER, a=1)
    status, answer = api.post("jobs/actions", {"action": "hold", "task": "samples.add", "limit": 3})
    assert (status, answer["done"], answer["refused"]) == (200, 3, 0)
    status, rest = api.post("jobs/actions", {"action": "hold", "task": "samples.add", "beyond": answer["next"]})
    assert (rest["done"], rest["next"]) == (2, None)
    assert Job.objects.filter(held_at__isnull=False).count() == len(jobs)
    foreign.refresh_from_db()
    assert foreign.held_at is None
    assert api.post("jobs/actions", {"action": "cancel", "held": True})[1]["done"] == 5
    assert api.post("jobs/actions", {"action": "cancel", "ids": [str(foreign.id)]})[1]["done"] == 0
    for wrong in ({"action": "cancel"}, {"action": "explode", "task": "x"}, {"action": "cancel", "state": "x"}):
        assert api.post("jobs/actions", wrong)[0] == 400
    assert api.post("jobs/actions", {"action": "cancel", "namespace": OTHER})[0] == 403


def test_all_that_match_are_edited(api: Api, job: Job) -> None:
    foreign = sample_tasks.add.enqueue(namespace=OTHER, a=1)
    sample_tasks.add.enqueue(namespace=OWN, a=2)
    run_at = datetime.now(UTC) + timedelta(hours=1)
    changes = {"priority": 7, "queue": "moved", "run_at": run_at.isoformat()}
    status, answer = api.post("jobs/actions", {"action": "edit", "task": "samples.add", "changes": changes})
    assert (status, answer["done"], answer["refused"]) == (200, 2, 0)
    found = set(Job.objects.filter(namespace=OWN).values_list("priority", "queue", "run_at", "state"))
    assert found == {(7, "moved", run_at, "scheduled")}
    foreign.refresh_from_db()
    assert (foreign.priority, foreign.queue) == (4, "samples")
    for wrong in (
        {"action": "edit"},
        {"action": "edit", "changes": {}},
        {"action": "edit", "changes": {"priority": 10}},
        {"action": "edit", "changes": {"queue": "/topic/x"}},
        {"action": "edit", "changes": {"run_at": "soon"}},
        {"action": "hold", "changes": {"priority": 1}},
    ):
        assert api.post("jobs/actions", {"task": "samples.add", **wrong})[0] == 400


def test_jobs_are_moved_only_to_queues_that_the_key_may_send_to(job: Job) -> None:
    namespace = Namespace.objects.get(name=OWN)
    key, passcode = AccessKey.issue("narrow", namespace)
    key.restricted = True
    key.save()
    key.permissions.create(pattern="queue/mine", send=True)
    key.permissions.create(pattern="task/#", send=True, receive=True, manage=True)
    narrow = Api(f"{key.login}.{passcode}")
    answers = [
        narrow.post("jobs/actions", {"action": "edit", "task": "samples.add", "changes": {"queue": queue}})[1]["done"]
        for queue in ("others", "mine")
    ]
    assert answers == [0, 1]


def test_who_may_only_look_changes_nothing(api: Api, job: Job) -> None:
    client = Client()
    client.force_login(get_user_model().objects.create_user("looker"))
    for path in ("hold", "release", "retry", "rerun", "cancel"):
        assert client.post(f"/api/v1/jobs/{job.id}/{path}").status_code == 403
    assert client.patch(f"/api/v1/jobs/{job.id}", "{}", content_type="application/json").status_code == 403
    body = json.dumps({"action": "cancel", "task": "samples.add"})
    assert client.post("/api/v1/jobs/actions", body, content_type="application/json").json()["done"] == 0
    job.refresh_from_db()
    assert job.state == "ready"
