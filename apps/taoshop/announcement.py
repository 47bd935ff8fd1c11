"""What the shop tells the world about an order: the message on the topic `orders.new`."""

import json
import os
from typing import Any

from django.conf import settings

from apps.taoshop.models import Order

TOPIC = "orders.new"


def namespace() -> str:
    """Where the shop announces: the setting or the variable TAOSHOP_NAMESPACE, default `taoshop.development`."""
    chosen = getattr(settings, "TAOSHOP_NAMESPACE", None) or os.environ.get("TAOSHOP_NAMESPACE")
    return chosen or "taoshop.development"


def content(order: Order) -> dict[str, Any]:
    """An order as JSON, with all that its subscribers need: they have no access to the shop's database."""
    return {
        "order": order.pk,
        "number": order.number,
        "name": order.name,
        "email": order.email,
        "total_cents": order.total_cents,
        "total": order.total,
        "created_at": order.created_at.isoformat(),
        "lines": [
            {
                "sku": line.product.sku,
                "title": line.title,
                "quantity": line.quantity,
                "price_cents": line.price_cents,
                "total": line.total,
            }
            for line in order.lines.select_related("product")
        ],
    }


def body(order: Order) -> str:
    """The message's body."""
    return json.dumps(content(order), ensure_ascii=False)
