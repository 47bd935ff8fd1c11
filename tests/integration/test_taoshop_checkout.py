"""Taoshop's checkout: the form, the order, and its announcement in the same transaction, heard on a real engine."""

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.core.management import call_command
from django.db import transaction
from django.test import Client, override_settings

from apps.broker.engine import Address, Delivery, Subscription
from apps.broker.postgres import PostgresEngine
from apps.taoshop import announcement, mails
from apps.taoshop.checkout import AlreadyOrdered, place_order
from apps.taoshop.models import Order, Product, euros

TOPIC = Address("taoshop.development", "topic", "orders.new")


class Ear:
    """Hears a topic, on an engine of its own in a thread of its own, as another process would."""

    def __init__(self, conninfo: str) -> None:
        self.heard: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._listening: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._listen(conninfo),))
        self._thread.start()
        self._listening.result(10)

    async def _listen(self, conninfo: str) -> None:
        engine = PostgresEngine(conninfo, kind="web")
        try:
            await engine.start()
        except Exception as error:
            self._listening.set_exception(error)
            raise
        engine.subscribe(TOPIC, self, 100, lambda error: self._listening.set_result(None))
        await self._over.wait()
        await engine.close()

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        with self._changed:
            self.heard += [json.loads(delivery.body) for delivery in deliveries]
            self._changed.notify_all()

    def lost(self, subscription: Subscription) -> None:
        raise AssertionError("the session was lost")

    def wait(self, condition: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.heard), 10), self.heard
            return list(self.heard)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def shelf(db: None) -> list[Product]:
    call_command("seed_taoshop", verbosity=0)
    return list(Product.objects.all())


@pytest.fixture
def ear(transactional_db: None, shelf: list[Product], conninfo: str) -> Iterator[Ear]:
    ear = Ear(conninfo)
    yield ear
    ear.close()


def form_of(client: Client, **changes: str) -> dict[str, str]:
    """What a browser would send after filling in the page."""
    token = client.get("/taoshop/").context["form"]["token"].value()
    return {"token": str(token), "name": "Ann Lee", "email": "ann@example.org", **changes}


def quantity(product: Product) -> str:
    return f"quantity_{product.pk}"


def test_an_order_is_written_announced_and_confirmed_to_the_customer(
    client: Client, shelf: list[Product], ear: Ear
) -> None:
    tea, oolong = shelf[:2]
    answer = client.post("/taoshop/", form_of(client, **{quantity(tea): "2", quantity(oolong): "1"}), follow=True)
    order = Order.objects.get()
    assert answer.redirect_chain == [(order.get_absolute_url(), 302)]
    assert order.total_cents == 2 * tea.price_cents + oolong.price_cents
    assert order.total in answer.content.decode()
    [heard] = ear.wait(lambda heard: len(heard) == 1)
    assert heard == json.loads(announcement.body(order))
    assert [(line["sku"], line["quantity"]) for line in heard["lines"]] == [(tea.sku, 2), (oolong.sku, 1)]


def test_an_order_that_is_rolled_back_was_never_announced(shelf: list[Product], ear: Ear) -> None:
    with transaction.atomic():
        place_order(uuid.uuid4(), "Never", "never@example.org", {shelf[0]: 1})
        transaction.set_rollback(True)
    place_order(uuid.uuid4(), "Later", "later@example.org", {shelf[0]: 1})
    # Notifications come in the order of commits: had the first been announced, it would be here by now.
    assert [order["name"] for order in ear.wait(bool)] == ["Later"]
    assert [order.name for order in Order.objects.all()] == ["Later"]


def test_an_announcement_is_not_heard_before_the_commit(shelf: list[Product], ear: Ear) -> None:
    with transaction.atomic():
        place_order(uuid.uuid4(), "Slow", "slow@example.org", {shelf[0]: 1})
        other = threading.Thread(target=_order_elsewhere, args=(shelf[0],))
        other.start()
        other.join(10)
        assert [order["name"] for order in ear.wait(bool)] == ["Quick"]
    assert [order["name"] for order in ear.wait(lambda heard: len(heard) == 2)] == ["Quick", "Slow"]


def _order_elsewhere(product: Product) -> None:
    from django.db import connection

    try:
        place_order(uuid.uuid4(), "Quick", "quick@example.org", {product: 1})
    finally:
        connection.close()


@pytest.mark.django_db
def test_the_same_form_sent_twice_is_one_order(client: Client, shelf: list[Product]) -> None:
    form = form_of(client, **{quantity(shelf[0]): "1"})
    first = client.post("/taoshop/", form)
    second = client.post("/taoshop/", form)
    assert first.status_code == second.status_code == 302
    assert first["Location"] == second["Location"]
    assert Order.objects.count() == 1


def test_two_submits_at_once_are_one_order(transactional_db: None, shelf: list[Product]) -> None:
    token = uuid.uuid4()
    numbers: list[int] = []
    together = threading.Barrier(4)

    def submit() -> None:
        from django.db import connection

        try:
            together.wait(10)
            numbers.append(place_order(token, "Ann", "ann@example.org", {shelf[0]: 1}).number)
        finally:
            connection.close()

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(numbers) == 4
    assert len(set(numbers)) == 1
    assert Order.objects.count() == 1


def test_a_form_sent_again_with_another_content_asks_first(client: Client, shelf: list[Product]) -> None:
    form = form_of(client, **{quantity(shelf[0]): "1"})
    client.post("/taoshop/", form)
    changed = client.post("/taoshop/", form | {quantity(shelf[0]): "5"})
    assert changed.status_code == 422
    order = Order.objects.get()
    assert f"Your order {order.number} was placed with this page already" in changed.content.decode()
    fresh = changed.context["form"]["token"].value()
    assert fresh != form["token"]
    client.post("/taoshop/", form | {quantity(shelf[0]): "5", "token": fresh})
    assert sorted(Order.objects.values_list("lines__quantity", flat=True)) == [1, 5]


def test_place_order_names_the_order_of_the_form(shelf: list[Product]) -> None:
    token = uuid.uuid4()
    order = place_order(token, "Ann", "ann@example.org", {shelf[0]: 1})
    with pytest.raises(AlreadyOrdered) as conflict:
        place_order(token, "Bob", "bob@example.org", {shelf[0]: 1})
    assert (conflict.value.order, conflict.value.code) == (order, "already_ordered")


@override_settings(TAOSHOP_NAMESPACE="nowhere.development")
def test_an_order_stands_even_if_it_cannot_be_announced(shelf: list[Product], caplog: pytest.LogCaptureFixture) -> None:
    order = place_order(uuid.uuid4(), "Ann", "ann@example.org", {shelf[0]: 1})
    assert Order.objects.get(pk=order.pk).lines.count() == 1
    assert "not_found" in caplog.text


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "  "}, "Please tell us your name."),
        ({"email": ""}, "Please tell us where to send the confirmation."),
        ({"email": "ann"}, "That is no e-mail address"),
        ({"first": "-1"}, "None at least."),
        ({"first": "100"}, "99 at most"),
        ({"first": "two"}, "A whole number, please."),
        ({"first": "0"}, "Please choose at least one product."),
        ({"first": ""}, "Please choose at least one product."),
        ({"token": "x"}, "Enter a valid UUID."),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_ordered(
    client: Client, shelf: list[Product], changes: dict[str, str], complaint: str
) -> None:
    first = changes.pop("first", "1")
    answer = client.post("/taoshop/", form_of(client, **{quantity(shelf[0]): first} | changes))
    assert answer.status_code == 422
    assert complaint in answer.content.decode()
    assert not Order.objects.exists()


def test_the_price_is_that_of_the_day(shelf: list[Product]) -> None:
    order = place_order(uuid.uuid4(), "Ann", "ann@example.org", {shelf[0]: 2})
    before = shelf[0].price_cents
    Product.objects.update(price_cents=1, title="Cheap")
    line = Order.objects.get(pk=order.pk).lines.get()
    assert (line.price_cents, line.title, line.total) == (before, shelf[0].title, euros(2 * before))


def test_prices_are_shown_in_euros() -> None:
    assert [euros(cents) for cents in (0, 5, 1890, 123456)] == ["€0.00", "€0.05", "€18.90", "€1,234.56"]


def test_an_empty_shelf_says_how_to_fill_it(client: Client, db: None) -> None:
    assert "seed_taoshop" in client.get("/taoshop/").content.decode()


def test_seeding_twice_changes_nothing(shelf: list[Product]) -> None:
    Product.objects.filter(pk=shelf[0].pk).update(title="Renamed")
    call_command("seed_taoshop", "--if-empty", verbosity=0)
    assert Product.objects.count() == len(shelf)
    assert Product.objects.filter(title="Renamed").exists()


def test_orders_are_for_staff_who_logged_in(client: Client, shelf: list[Product]) -> None:
    assert client.get("/taoshop/orders/").status_code == 302
    order = place_order(uuid.uuid4(), "<b>Ann</b>", "ann@example.org", {shelf[0]: 3})
    client.force_login(User.objects.create_user("staff"))
    page = client.get("/taoshop/orders/").content.decode()
    assert f'data-order="{order.number}"' in page
    assert "&lt;b&gt;Ann&lt;/b&gt;" in page
    assert 'data-stream="/events/topic/' in page


def test_the_thank_you_page_cannot_be_guessed(client: Client, shelf: list[Product]) -> None:
    place_order(uuid.uuid4(), "Ann", "ann@example.org", {shelf[0]: 1})
    assert client.get(f"/taoshop/thanks/{uuid.uuid4()}/").status_code == 404


def test_the_confirmation_says_what_was_ordered(shelf: list[Product]) -> None:
    order = place_order(uuid.uuid4(), "Ann", "ann@example.org", {shelf[0]: 2, shelf[3]: 1})
    mails.confirmation(announcement.content(order)).send()
    [sent] = mail.outbox
    assert sent.to == ["ann@example.org"]
    assert str(order.number) in sent.subject
    assert shelf[3].title in sent.body
    assert order.total in sent.body
