"""What the console says to workers."""

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from workers.models import Order

pytestmark = pytest.mark.django_db


@pytest.fixture
def worker() -> int:
    """One whose lease lies ahead."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO msgweb.session (kind, host, pid, process, details, expires_at) VALUES ('worker', 'h', 1, 'p',"
            """ '{"slots": 2, "queues": ["mails"]}', clock_timestamp() + interval '1 minute') RETURNING id"""
        )
        (session,) = cursor.fetchone()
    return int(session)


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(get_user_model().objects.create_superuser("ada", password="x"))
    return client


def test_a_worker_is_paused_resized_and_stopped_from_its_page(admin: Client, worker: int) -> None:
    page = admin.get("/workers/").content.decode()
    assert f"/workers/{worker}/pause/" in page
    assert "One slot more" in page
    assert "The worker pauses." in admin.post(f"/workers/{worker}/pause/", follow=True).content.decode()
    admin.post(f"/workers/{worker}/resize/", {"slots": "3"})
    order = Order.objects.get(session=worker)
    assert (order.paused, order.slots, order.stop, order.by) == (True, 3, False, "ada")
    admin.post(f"/workers/{worker}/resume/")
    admin.post(f"/workers/{worker}/stop/")
    order.refresh_from_db()
    assert (order.paused, order.slots, order.stop) == (False, 3, True)


def test_what_cannot_be_is_said_and_changes_nothing(admin: Client, worker: int) -> None:
    def said(action: str, **form: str) -> str:
        return admin.post(f"/workers/{action}/", form, follow=True).content.decode()

    assert "whole number" in said(f"{worker}/resize", slots="many")
    assert "0 to 1000 slots" in said(f"{worker}/resize", slots="-1")
    assert "there is no worker" in said(f"{worker + 1}/pause")
    assert admin.post(f"/workers/{worker}/explode/").status_code == 404
    assert admin.get(f"/workers/{worker}/pause/").status_code == 405
    assert not Order.objects.exists()


def test_only_who_may_change_workers_sees_the_buttons_and_may_press_them(client: Client, worker: int) -> None:
    client.force_login(get_user_model().objects.create_user("rita", password="x"))
    assert f"/workers/{worker}/pause/" not in client.get("/workers/").content.decode()
    assert client.post(f"/workers/{worker}/pause/").status_code == 403
    client.logout()
    assert client.post(f"/workers/{worker}/pause/")["Location"].startswith("/login/")
    assert not Order.objects.exists()
