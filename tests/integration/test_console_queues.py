"""A queue's page: pause, purge and send back, for who may manage the queue."""

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils.http import urlencode

from apps.accounts.models import Namespace, Permission
from apps.broker import catalogue, outbox, queue_settings

pytestmark = pytest.mark.django_db

HOME = "shop.test"


@pytest.fixture
def rita(client: Client) -> Client:
    """Somebody who may manage the queues below `orders`."""
    home = Namespace.objects.create(name=HOME)
    user = get_user_model().objects.create_user("rita", password="x", is_staff=True)
    Permission.objects.create(user=user, namespace=home, pattern="queue/orders.#", manage=True)
    client.force_login(user)
    return client


def page(name: str, namespace: str = HOME) -> str:
    return f"/queue/?{urlencode({'namespace': namespace, 'name': name})}"


def waiting(name: str) -> int:
    return next(queue.ready for queue in catalogue.queues(HOME) if queue.name == name)


def test_a_queue_is_paused_and_resumed(rita: Client) -> None:
    outbox.send(HOME, "/queue/orders.new", "x")
    assert rita.post(page("orders.new"), {"action": "pause"})["Location"] == page("orders.new")
    assert queue_settings.get(HOME, "orders.new").paused
    assert "Resume" in rita.get(page("orders.new")).content.decode()
    rita.post(page("orders.new"), {"action": "resume"})
    assert not queue_settings.get(HOME, "orders.new").paused


def test_a_queue_is_purged(rita: Client) -> None:
    for _ in range(3):
        outbox.send(HOME, "/queue/orders.new", "x")
    answer = rita.post(page("orders.new"), {"action": "purge"}, follow=True)
    assert "3 messages were removed" in answer.content.decode()
    assert waiting("orders.new") == 0


def test_what_is_somebody_else_s_to_manage_is_shown_and_not_changed(rita: Client) -> None:
    outbox.send(HOME, "/queue/bills", "x")
    Namespace.objects.create(name="shop.other")
    outbox.send("shop.other", "/queue/orders.new", "x")
    for path in (page("bills"), page("orders.new", "shop.other")):
        assert "Purge" not in rita.get(path).content.decode()
        for action in ("pause", "resume", "purge", "redrive"):
            assert rita.post(path, {"action": action}).status_code == 403
    assert waiting("bills") == 1


def test_a_stranger_is_asked_to_log_in(client: Client) -> None:
    assert client.post(page("orders.new"), {"action": "purge"})["Location"].startswith("/login/")


def test_a_name_may_hold_anything(rita: Client) -> None:
    name = "orders.a/b?c&d=<e> ü%2F"
    outbox.send(HOME, f"/queue/{name}", "x")
    listed = rita.get("/queues/").content.decode()
    assert page(name).replace("&", "&amp;").replace("+", "%20") in listed
    assert rita.get(page(name)).status_code == 200
    rita.post(page(name), {"action": "purge"})
    assert waiting(name) == 0


@pytest.mark.parametrize("path", ["/queue/", page("not.there"), page("a\0b"), page("$reply.x"), page("x" * 300)])
def test_what_is_not_there_is_not_found(rita: Client, path: str) -> None:
    assert rita.get(path).status_code == 404


def test_what_cannot_be_done_is_not_found(rita: Client) -> None:
    outbox.send(HOME, "/queue/orders.new", "x")
    assert rita.post(page("orders.new"), {"action": "explode"}).status_code == 404
