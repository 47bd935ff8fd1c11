"""Placing an order: written and announced in one transaction."""

import logging
import uuid
from collections.abc import Mapping

from django.db import IntegrityError, transaction

from apps.broker import outbox
from apps.taoshop import announcement
from apps.taoshop.models import Order, OrderLine, Product
from msgweb.errors import Conflict, MsgwebError

logger = logging.getLogger(__name__)


class AlreadyOrdered(Conflict):
    """The form was sent before, with another content.

    Attributes:
        order: the order that was placed with it.
    """

    code = "already_ordered"

    def __init__(self, order: Order) -> None:
        super().__init__(f"this form has placed order {order.number} already")
        self.order = order


def place_order(token: uuid.UUID, name: str, email: str, quantities: Mapping[Product, int]) -> Order:
    """Write an order and announce it on the topic `orders.new`, both visible at COMMIT and not before.

    The announcement is best effort: an order stands even where it cannot be announced, which is logged.

    Args:
        token: the form's; a second order with it is the first one.
        quantities: how many of each product, 1 at least.

    Returns:
        The new order, or the one that the same form has placed before.

    Raises:
        AlreadyOrdered: that one was different.
    """
    total = sum(product.price_cents * quantity for product, quantity in quantities.items())
    with transaction.atomic():
        try:
            with transaction.atomic():
                order = Order.objects.create(token=token, name=name, email=email, total_cents=total)
        except IntegrityError:
            return _placed_before(token, name, email, quantities)
        OrderLine.objects.bulk_create(
            OrderLine(
                order=order,
                product=product,
                title=product.title,
                quantity=quantity,
                price_cents=product.price_cents,
            )
            for product, quantity in quantities.items()
        )
        _announce(order)
    return order


def _announce(order: Order) -> None:
    try:
        # In a savepoint: a statement that fails spoils the transaction that it stands in.
        with transaction.atomic():
            outbox.send(
                announcement.namespace(),
                f"/topic/{announcement.TOPIC}",
                announcement.body(order),
                content_type="application/json",
            )
    except MsgwebError as error:
        logger.error("%s was placed but not announced: %s: %s", order, error.code, error.message)


def _placed_before(token: uuid.UUID, name: str, email: str, quantities: Mapping[Product, int]) -> Order:
    order = Order.objects.prefetch_related("lines").get(token=token)
    ordered = {line.product_id: line.quantity for line in order.lines.all()}
    asked = {product.pk: quantity for product, quantity in quantities.items()}
    if (order.name, order.email, ordered) != (name, email, asked):
        raise AlreadyOrdered(order)
    return order
