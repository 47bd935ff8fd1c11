"""The console's page of connections, with a gateway that answers."""

import re
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.test import Client

from apps.accounts.models import Namespace
from apps.broker import catalogue
from apps.stomp.gateway import supervision
from tests.installation import until
from tests.stomp_gateway import NAMESPACE, SECONDS, RunningGateway

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def running(conninfo: str) -> Iterator[RunningGateway]:
    Namespace.objects.get_or_create(name=NAMESPACE)
    with RunningGateway(conninfo) as running:

        async def start() -> None:
            running.gateway.supervision.start()
            running.engine.serve()

        running.run(start)
        yield running


@pytest.fixture
def staff() -> Client:
    User.objects.create_superuser("root", password="x")
    client = Client()
    client.login(username="root", password="x")
    return client


def test_who_is_connected(running: RunningGateway, staff: Client) -> None:
    session = running.client().connect()["session"]
    text = staff.get("/connections/").content.decode()
    assert session in text and "guest" in text and "did not answer" not in text


def test_a_trace_and_an_end(running: RunningGateway, staff: Client) -> None:
    client = running.client()
    session = client.connect()["session"]
    page = staff.get("/connections/trace/", {"connection": session}).content.decode()
    assert re.search(r'data-stream="/events/topic/[^"]+"', page)
    text = staff.get("/connections/").content.decode()
    assert "traced" in text
    staff.post("/connections/end/", {"connection": session})
    client.expect_error("ended_by_operator")


def test_a_gateway_of_another_version_is_shown_and_one_that_makes_no_sense_is_silent(
    running: RunningGateway, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = running.client().connect()["session"]
    described = supervision._described
    monkeypatch.setattr(supervision, "_described", lambda one: {**described(one), "mood": "good"})
    assert session in staff.get("/connections/").content.decode()
    monkeypatch.setattr(supervision, "_described", lambda one: {"mood": "bad"})
    assert "did not answer" in staff.get("/connections/").content.decode()


def test_one_gateway_of_three_hangs_and_the_others_are_shown(
    running: RunningGateway, staff: Client, conninfo: str
) -> None:
    sessions = [running.client().connect()["session"]]
    with RunningGateway(conninfo) as second, RunningGateway(conninfo) as hanging:

        async def serve() -> None:
            second.gateway.supervision.start()
            second.engine.serve()

        async def hang() -> None:
            hanging.engine.serve()  # it holds its lease, and hears no question

        second.run(serve)
        hanging.run(hang)
        until(lambda: catalogue.sessions_serving("gateway") == 3, SECONDS, "the console knows them all")
        sessions.append(second.client().connect()["session"])
        text = staff.get("/connections/").content.decode()
    assert all(session in text for session in sessions)
    assert re.search(r"1 gateway process\s+did not answer", text), text


def test_five_hundred_connections_fit_into_an_answer(
    running: RunningGateway, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = supervision._described
    monkeypatch.setattr(supervision, "_described", lambda one: {**described(one), "login": "é" * 500})
    monkeypatch.setattr(supervision, "sorted", lambda ones, key=None: list(ones) * (500 if key else 1), raising=False)
    running.client().connect()
    text = staff.get("/connections/").content.decode()
    assert "did not answer" not in text and text.count("é" * 500) >= 500


def test_that_no_gateway_is_there_is_said(staff: Client) -> None:
    assert "manage.py runstomp" in staff.get("/connections/").content.decode()


@pytest.mark.parametrize("query", [{}, {"connection": "a", "login": "b"}])
def test_a_trace_is_of_one(staff: Client, query: dict[str, str]) -> None:
    assert staff.get("/connections/trace/", query).status_code == 404


def test_it_is_for_staff_with_the_permission() -> None:
    User.objects.create_user("clerk", password="x", is_staff=True)
    client = Client()
    assert client.get("/connections/").status_code == 302
    client.login(username="clerk", password="x")
    for path in ("/connections/", "/connections/trace/?login=x"):
        assert client.get(path).status_code == 403
    assert client.post("/connections/end/", {"connection": "x"}).status_code == 403
